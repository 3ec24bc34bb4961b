"""What hangs on the column ``embedding`` follows the name over a change and back, or stops it."""

from __future__ import annotations

import psycopg
import pytest
from support.registries import (
    FORCE,
    YES,
    catalogue_of,
    column_type,
    execute,
    fill,
    migrate,
    migrate_online,
    opened,
    prune,
    rollback,
    rows,
    server_insert,
    target,
    value,
    vectors,
)

from toolbox_cli.db.changes import RegistryCutover
from toolbox_cli.domain.errors import StateError
from toolbox_cli.domain.ports import SilentProgress

NEW_MODEL = target(8, "another-model")
NEW_DIMENSION = target(16)

SETTINGS = (
    "SELECT attstorage::text, attcompression::text, attstattarget, attoptions, col_description(attrelid, attnum),"
    " (SELECT array_agg(coalesce(pg_get_userbyid(nullif(grantee, 0)), 'public') || ' ' || privilege_type || ' '"
    " || is_grantable ORDER BY 1) FROM aclexplode(attacl) WHERE grantee <> (SELECT relowner FROM pg_class WHERE oid ="
    " attrelid)) FROM pg_attribute WHERE attrelid = 'tools'::regclass AND attname = %s"
)


def settings_of(conninfo: str, column: str = "embedding") -> tuple[object, ...]:
    return rows(conninfo, SETTINGS, [column])[0]


async def cut_over(conninfo: str) -> None:
    """The swap alone, without gates."""
    async with opened(conninfo) as registry:
        await (await registry.plan_cutover()).execute(SilentProgress(), check=False)


def text_of(conninfo: str, view: str) -> str:
    return str(value(conninfo, "SELECT pg_get_viewdef(%s::regclass)", [view]))


@pytest.fixture
def role(registry_database: str) -> str:
    """A role that nobody else uses; roles belong to the whole server."""
    name = f"reader_{registry_database.split('test_')[1][:12]}"
    execute(registry_database, f"CREATE ROLE {name}")
    return name


async def test_settings_follow_the_name_and_come_back(registry_database: str, role: str) -> None:
    fill(registry_database, 3)
    execute(
        registry_database,
        "COMMENT ON COLUMN tools.embedding IS 'what search reads';"
        "ALTER TABLE tools ALTER embedding SET STORAGE MAIN, ALTER embedding SET STATISTICS 7,"
        " ALTER embedding SET (n_distinct = -0.5), ALTER embedding SET COMPRESSION pglz;"
        f"GRANT SELECT (embedding) ON tools TO {role} WITH GRANT OPTION; GRANT UPDATE (embedding) ON tools TO PUBLIC",
    )
    wanted = settings_of(registry_database)
    assert wanted[:5] == ("m", "p", 7, ["n_distinct=-0.5"], "what search reads")
    assert wanted[5] == [f"{role} SELECT true", "public UPDATE false"] or wanted[5] == sorted(wanted[5])
    for change in (migrate(registry_database, NEW_DIMENSION), rollback(registry_database)):
        await change
        assert settings_of(registry_database) == wanted
    # What was changed meanwhile is what holds: the name's settings go along, not the column's of old.
    execute(
        registry_database,
        f"COMMENT ON COLUMN tools.embedding IS 'other'; REVOKE UPDATE (embedding) ON tools FROM PUBLIC;"
        f"REVOKE GRANT OPTION FOR SELECT (embedding) ON tools FROM {role};"
        "ALTER TABLE tools ALTER embedding RESET (n_distinct), ALTER embedding SET STATISTICS -1",
    )
    changed = settings_of(registry_database)
    await migrate(registry_database, NEW_DIMENSION)
    assert settings_of(registry_database) == changed
    assert changed[5] == [f"{role} SELECT false"]


async def test_settings_follow_over_a_cutover(registry_database: str, role: str) -> None:
    execute(registry_database, f"COMMENT ON COLUMN tools.embedding IS 'x'; GRANT SELECT (embedding) ON tools TO {role}")
    wanted = settings_of(registry_database)
    await migrate_online(registry_database, NEW_DIMENSION)
    assert settings_of(registry_database, "embedding_next")[4:] == (None, None)
    await cut_over(registry_database)
    assert settings_of(registry_database) == wanted
    await rollback(registry_database)
    assert settings_of(registry_database) == wanted


async def test_a_view_that_shows_no_vector_follows(registry_database: str, role: str) -> None:
    fill(registry_database, 4)
    execute(
        registry_database,
        "CREATE VIEW covered WITH (security_barrier = true) AS SELECT name, embedding IS NOT NULL AS done FROM tools;"
        "CREATE VIEW of_it AS SELECT count(*) FILTER (WHERE done) FROM covered;"
        f"GRANT SELECT ON covered TO {role}",
    )
    before, acl = text_of(registry_database, "covered"), "SELECT relacl::text FROM pg_class WHERE relname = 'covered'"
    rights = value(registry_database, acl)
    outline = await migrate(registry_database, NEW_DIMENSION)
    assert outline.dependents == []
    assert text_of(registry_database, "covered") == before
    assert value(registry_database, "SELECT * FROM of_it") == 0
    assert value(registry_database, acl) == rights
    assert value(registry_database, "SELECT reloptions FROM pg_class WHERE relname = 'covered'") == [
        "security_barrier=true"
    ]
    await rollback(registry_database)
    assert value(registry_database, "SELECT * FROM of_it") == 4
    await prune(registry_database)


async def test_a_view_that_shows_vectors_follows_where_their_type_stays(registry_database: str) -> None:
    fill(registry_database, 2)
    execute(registry_database, "CREATE VIEW neighbours AS SELECT name, embedding FROM tools")
    before = text_of(registry_database, "neighbours")
    await migrate(registry_database, NEW_MODEL)
    assert text_of(registry_database, "neighbours") == before
    assert value(registry_database, "SELECT count(embedding) FROM neighbours") == 0
    untouched = catalogue_of(registry_database)
    with pytest.raises(StateError, match=r"view neighbours \(column embedding\)"):
        await migrate(registry_database, target(4, "another-model"), consent=YES)
    assert catalogue_of(registry_database) == untouched


async def test_a_trigger_that_names_the_column_follows(registry_database: str) -> None:
    execute(
        registry_database,
        "CREATE TABLE seen (name text);"
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN INSERT INTO seen VALUES (NEW.name); RETURN NULL; END';"
        "CREATE TRIGGER noted AFTER UPDATE OF embedding ON tools FOR EACH ROW"
        " WHEN (NEW.embedding IS NOT NULL) EXECUTE FUNCTION note();"
        "CREATE TRIGGER asleep AFTER UPDATE OF embedding ON tools FOR EACH ROW EXECUTE FUNCTION note();"
        "ALTER TABLE tools DISABLE TRIGGER asleep",
    )
    server_insert(registry_database, "one")
    outline = await migrate(registry_database, NEW_DIMENSION)
    assert outline.dependents == []
    execute(registry_database, "UPDATE tools SET embedding_previous = NULL")
    assert value(registry_database, "SELECT count(*) FROM seen") == 0
    execute(registry_database, "UPDATE tools SET embedding = array_fill(1, ARRAY[16])::vector")
    assert value(registry_database, "SELECT count(*) FROM seen") == 1
    assert value(registry_database, "SELECT tgenabled::text FROM pg_trigger WHERE tgname = 'asleep'") == "D"


async def test_a_publication_that_lists_the_column_follows(registry_database: str) -> None:
    execute(
        registry_database,
        "CREATE TABLE elsewhere (id int PRIMARY KEY);"
        "CREATE PUBLICATION listed FOR TABLE tools (id, name, embedding) WHERE (id > 5), elsewhere",
    )
    listed = (
        "SELECT attnames::text[], rowfilter FROM pg_publication_tables WHERE pubname = 'listed' AND tablename = 'tools'"
    )
    before = rows(registry_database, listed)
    assert before[0][0] == ["id", "name", "embedding"]
    assert (await migrate(registry_database, NEW_DIMENSION)).dependents == []
    assert rows(registry_database, listed) == before
    assert value(registry_database, "SELECT count(*) FROM pg_publication_tables WHERE pubname = 'listed'") == 2
    await rollback(registry_database)
    assert rows(registry_database, listed) == before


async def test_a_publication_of_the_whole_table_is_named(registry_database: str) -> None:
    execute(registry_database, "CREATE PUBLICATION everything FOR TABLE tools")
    outline = await migrate(registry_database, NEW_DIMENSION, dry_run=True)
    assert "publication everything replicates the whole table" in outline.notes[0]
    assert outline.dependents == []


@pytest.mark.parametrize(
    ("made", "named"),
    [
        (
            "ALTER TABLE tools ADD has_vector boolean GENERATED ALWAYS AS (embedding IS NOT NULL) STORED",
            r"default value for column has_vector.* \(column embedding\)",
        ),
        ("ALTER TABLE tools ADD CHECK (embedding IS NOT NULL)", r"constraint tools_embedding_check.*column embedding"),
        ("CREATE INDEX done ON tools (id) WHERE embedding IS NOT NULL", r"index done \(column embedding\)"),
        ("CREATE POLICY own ON tools USING (embedding IS NOT NULL)", r"policy own.* \(column embedding\)"),
        (
            "CREATE FUNCTION done() RETURNS bigint BEGIN ATOMIC SELECT count(embedding) FROM tools; END",
            r"function done\(\) \(column embedding\)",
        ),
        ("ALTER TABLE tools ALTER embedding SET NOT NULL", "the NOT NULL of column embedding"),
        ("CREATE MATERIALIZED VIEW m AS SELECT embedding FROM tools", r"materialised view m \(column embedding\)"),
    ],
    ids=["generated", "check", "partial index", "policy", "function", "not null", "materialised view"],
)  # fmt: skip
async def test_what_cannot_follow_is_named_and_refused(registry_database: str, made: str, named: str) -> None:
    fill(registry_database, 2)
    execute(registry_database, made)
    before = catalogue_of(registry_database)
    with pytest.raises(StateError, match=named) as caught:
        await migrate(registry_database, NEW_DIMENSION)
    assert "--force" in (caught.value.hint or "")
    assert catalogue_of(registry_database) == before
    await migrate(registry_database, NEW_DIMENSION, consent=FORCE)
    assert column_type(registry_database) == "vector(16)"
    # What was forced must not have broken the server's own statements.
    if "CHECK" not in made:
        server_insert(registry_database, "registered_after")


async def test_not_null_does_not_stay_on_a_retired_column(registry_database: str) -> None:
    fill(registry_database, 2)
    execute(registry_database, "ALTER TABLE tools ALTER embedding SET NOT NULL")
    old = vectors(registry_database)
    await migrate(registry_database, NEW_DIMENSION, consent=FORCE)
    server_insert(registry_database, "without_the_old")
    assert vectors(registry_database, "embedding_previous") == old


async def test_a_dependent_in_another_schema_is_named_with_it(registry_database: str) -> None:
    execute(registry_database, "CREATE SCHEMA reports; CREATE VIEW reports.v AS SELECT embedding FROM tools")
    with pytest.raises(StateError, match=r"view reports\.v"):
        await migrate(registry_database, NEW_DIMENSION)


async def test_the_change_log_writes_down_what_the_server_touches(registry_database: str, role: str) -> None:
    """Also for a role that may write to nothing but ``tools``, and in another schema first in its path."""
    execute(
        registry_database,
        f"GRANT USAGE ON SCHEMA public TO {role}; GRANT SELECT, INSERT, UPDATE, DELETE ON tools TO {role};"
        f"GRANT USAGE ON SEQUENCE tools_id_seq TO {role}",
    )
    await migrate_online(registry_database, NEW_DIMENSION)
    server_insert(registry_database, "before")
    async with opened(registry_database) as registry:
        swap = await registry.plan_cutover()
        assert isinstance(swap, RegistryCutover)
        await swap.watch_changes(SilentProgress())
        with psycopg.connect(registry_database, autocommit=True) as server:
            server.execute(f"SET ROLE {role}")
            server.execute("SET search_path = pg_temp, public")
            server.execute("INSERT INTO tools (name, description, implementation_type) VALUES ('new', 'x', 'external')")
            server.execute("UPDATE tools SET description = 'other' WHERE name = 'before'")
            server.execute("UPDATE tools SET version = '2.0.0'")
            server.execute("DELETE FROM tools WHERE name = 'new'")
        written = "SELECT t.name FROM embedding_changes c LEFT JOIN tools t ON t.id = c.tool_id ORDER BY 1"
        assert rows(registry_database, written) == [("before",), (None,)]
        with pytest.raises(Exception, match="changed since they were caught up"):
            await swap.execute(SilentProgress())
        assert column_type(registry_database) == "vector(8)"
        execute(registry_database, "UPDATE tools SET is_active = false")
        # A tool that is switched off need not be fresh, and one that is gone neither.
        await swap.execute(SilentProgress())
    assert column_type(registry_database) == "vector(16)"
    assert value(registry_database, "SELECT to_regclass('embedding_changes') IS NULL")
