"""Migrations on every state that a registry may be found in; what a change leaves behind is compared bit for bit."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import psycopg
import pytest
from support import declared_schema as declared
from support import registries
from support.postgres import create_database, drop_database
from support.registries import (
    MIGRATIONS,
    applied,
    catalogue_of,
    column_type,
    execute,
    indexes,
    migrate,
    migrate_up_to,
    roles,
    rollback,
    rows,
    schema_of,
    server_insert,
    target,
    value,
    vectors,
)

from toolbox_cli.core.generation import Consent
from toolbox_cli.db import yoyo_runner
from toolbox_cli.db.embedded import EmbeddedServer
from toolbox_cli.db.yoyo_runner import load_migrations, migrations_folder
from toolbox_cli.domain.changes import Outline
from toolbox_cli.domain.errors import StateError


def unmark(conninfo: str, *ids: str) -> None:
    """As a crash between a migration and its mark leaves it: yoyo commits them one after the other."""
    execute(conninfo, "DELETE FROM _yoyo_migration WHERE migration_id = ANY (%s)", [list(ids)])


def leave_stale_lock(conninfo: str) -> None:
    """As a killed yoyo leaves its lock. No process has this number."""
    execute(conninfo, "INSERT INTO yoyo_lock (locked, ctime, pid) VALUES (1, now(), 4194304)")


def titles(outline: Outline) -> list[str]:
    return [step.title for step in outline.steps]


async def test_empty_database_gets_the_declared_schema(empty_database: str) -> None:
    outline = await migrate(empty_database)
    found = schema_of(empty_database)
    assert found["columns"] == declared.COLUMNS
    assert found["tables"] == declared.TABLES
    assert found["indexes"] == {name: declared.index_definition(name) for name in declared.INDEXES}
    assert found["constraints"] == declared.CONSTRAINTS
    assert {name: " ".join(text.split()[:3]) for name, text in found["functions"].items()} == declared.FUNCTIONS
    assert applied(empty_database) == MIGRATIONS
    assert roles(empty_database) == {"current": ("test-model", 8)}
    assert not outline.losses
    assert not outline.retires


async def test_second_run_has_nothing_to_do(registry_database: str) -> None:
    before = catalogue_of(registry_database)
    outline = await migrate(registry_database)
    assert outline.empty
    assert outline.steps == []
    assert catalogue_of(registry_database) == before


async def test_alembic_registry_is_adopted(alembic_database: str) -> None:
    old = vectors(alembic_database)
    others = rows(alembic_database, "SELECT to_jsonb(t) - 'embedding' FROM tools t ORDER BY id")
    outline = await migrate(alembic_database, target(768))
    assert vectors(alembic_database, "embedding_previous") == old
    assert len(old) == 14
    assert vectors(alembic_database) == {}
    assert column_type(alembic_database) == "vector(768)"
    assert rows(alembic_database, "SELECT version_num FROM alembic_version") == [("001",)]
    assert roles(alembic_database) == {"current": ("test-model", 768), "previous": (None, 1024)}
    assert applied(alembic_database) == MIGRATIONS
    assert outline.retires == ["14 vectors of 1024 dimensions (kept for `toolbox rollback`)"]
    assert not outline.losses
    # Nothing else of a tool was touched.
    mine = ["embedding", "embedding_previous", "embedding_fingerprint", "embedding_previous_fingerprint"]
    assert rows(alembic_database, "SELECT to_jsonb(t) - %s::text[] FROM tools t ORDER BY id", [mine]) == others
    assert value(alembic_database, "SELECT count(*) FROM tool_executions") == 3


async def test_alembic_registry_that_has_the_dimension_already(alembic_database: str) -> None:
    """Alembic's 002: the column was altered by hand, with an index of another name and kind."""
    execute(
        alembic_database,
        "DROP INDEX ix_tools_embedding; ALTER TABLE tools ALTER embedding TYPE vector(768) USING NULL;"
        "CREATE INDEX tools_embedding_hnsw ON tools USING hnsw (embedding vector_cosine_ops) WITH (m = 8);"
        "UPDATE alembic_version SET version_num = '002'",
    )
    outline = await migrate(alembic_database, target(768))
    assert not outline.losses
    assert not outline.retires
    assert column_type(alembic_database, "embedding_previous") is None
    assert list(indexes(alembic_database)) == ["tools_embedding_hnsw"]
    assert roles(alembic_database) == {"current": ("test-model", 768)}
    assert value(alembic_database, "SELECT version_num FROM alembic_version") == "002"


async def test_adoption_at_the_same_dimension_keeps_vectors_and_index(alembic_database: str) -> None:
    old, index = vectors(alembic_database), indexes(alembic_database)
    await migrate(alembic_database, target(1024))
    assert vectors(alembic_database) == old
    assert indexes(alembic_database) == index
    assert value(alembic_database, "SELECT index_method FROM embedding_generations") == "ivfflat"
    assert (await migrate(alembic_database, target(1024))).empty


async def test_index_of_another_operator_class_is_replaced(alembic_database: str) -> None:
    execute(
        alembic_database,
        "DROP INDEX ix_tools_embedding; CREATE INDEX by_l2 ON tools USING hnsw (embedding vector_l2_ops)",
    )
    await migrate(alembic_database, target(1024))
    assert indexes(alembic_database) == {
        "ix_tools_embedding": "CREATE INDEX ix_tools_embedding ON tools USING hnsw (embedding vector_cosine_ops)"
    }


@pytest.mark.parametrize("last", [1, 2])
@pytest.mark.parametrize("marked", [True, False], ids=["marked", "unmarked"])
async def test_killed_half_way(alembic_database: str, last: int, marked: bool) -> None:
    old = vectors(alembic_database)
    await migrate_up_to(alembic_database, last, target(768))
    if not marked:
        unmark(alembic_database, MIGRATIONS[last - 1])
    leave_stale_lock(alembic_database)
    server_insert(alembic_database, "registered_meanwhile")
    await migrate(alembic_database, target(768))
    assert applied(alembic_database) == MIGRATIONS
    assert column_type(alembic_database) == "vector(768)"
    assert vectors(alembic_database, "embedding_previous").items() >= old.items()
    assert roles(alembic_database) == {"current": ("test-model", 768), "previous": (None, 1024)}
    assert (await migrate(alembic_database, target(768))).empty


@pytest.mark.parametrize(
    "lost", [[MIGRATIONS[0]], [MIGRATIONS[1]], [MIGRATIONS[2]], MIGRATIONS], ids=["001", "002", "003", "all"]
)
async def test_marks_lost_of_a_whole_registry(alembic_database: str, lost: list[str]) -> None:
    """Everything is there but the marks: they are written again, and nothing else changes."""
    await migrate(alembic_database, target(768))
    server_insert(alembic_database, "kept")
    before, data = schema_of(alembic_database), vectors(alembic_database)
    unmark(alembic_database, *lost)
    leave_stale_lock(alembic_database)
    outline = await migrate(alembic_database, target(768))
    assert not outline.empty
    assert applied(alembic_database) == MIGRATIONS
    assert schema_of(alembic_database) == before
    assert vectors(alembic_database) == data
    assert value(alembic_database, "SELECT count(*) FROM embedding_generations") == 2
    assert (await migrate(alembic_database, target(768))).empty


async def test_another_target_after_a_crash(alembic_database: str) -> None:
    """002 had set 1024 aside for 768 when it was killed; the operator comes back with 512."""
    await migrate_up_to(alembic_database, 2, target(768))
    server_insert(alembic_database, "of_768")
    outline = await migrate(alembic_database, target(512), consent=Consent(yes=True))
    assert column_type(alembic_database) == "vector(512)"
    assert list(vectors(alembic_database, "embedding_previous")) == ["of_768"]
    assert roles(alembic_database) == {"current": ("test-model", 512), "previous": (None, 768)}
    assert outline.losses == ["14 vectors of 1024 dimensions by an unknown model (column embedding_previous)"]


async def test_another_model_while_marks_are_missing(registry_database: str) -> None:
    unmark(registry_database, MIGRATIONS[1], MIGRATIONS[2])
    await migrate(registry_database, target(8, "another-model"))
    assert roles(registry_database) == {"current": ("another-model", 8), "previous": ("test-model", 8)}
    assert applied(registry_database) == MIGRATIONS


async def test_another_dimension_again_and_again(registry_database: str) -> None:
    for dimension in (16, 4, 32):
        await migrate(registry_database, target(dimension))
        assert column_type(registry_database) == f"vector({dimension})"
        assert roles(registry_database)["current"] == ("test-model", dimension)
        server_insert(registry_database, f"of_{dimension}_{len(vectors(registry_database))}_{id(object())}")
    assert applied(registry_database) == MIGRATIONS
    assert value(registry_database, "SELECT count(*) FROM embedding_generations WHERE role = 'retired'") == 2


async def test_record_of_the_current_generation_lost(registry_database: str) -> None:
    execute(registry_database, "DELETE FROM embedding_generations")
    await migrate(registry_database)
    assert roles(registry_database) == {"current": ("test-model", 8)}
    assert (await migrate(registry_database)).empty


async def test_migrating_under_traffic_waits_for_its_turn(alembic_database: str) -> None:
    """A transaction holds the table for a moment: the change steps back, and comes again."""
    async with await psycopg.AsyncConnection.connect(alembic_database) as other:
        await other.execute("SELECT 1 FROM tools")
        change = asyncio.create_task(migrate(alembic_database, target(768)))
        await asyncio.sleep(0.7)
        assert not change.done()
        await other.commit()
        await change
    assert applied(alembic_database) == MIGRATIONS


def copied_migrations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "copied"
    shutil.copytree(migrations_folder(), folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(yoyo_runner, "migrations_folder", lambda: folder)
    return folder


@pytest.mark.parametrize("text", ["import nowhere_to_be_found\n", "def broken(:\n", "raise SystemError('x')\n"])
async def test_migration_that_cannot_be_imported(
    empty_database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    text: str,
) -> None:
    folder = copied_migrations(tmp_path, monkeypatch)
    (folder / "004_broken.py").write_text(text)
    before = catalogue_of(empty_database)
    with pytest.raises(StateError, match="004_broken cannot be imported"):
        await migrate(empty_database)
    assert catalogue_of(empty_database) == before
    assert capfd.readouterr().err == ""


def test_no_migrations_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "toolbox_cli" / "db" / "yoyo_runner.py"
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / "__init__.py").touch()
    monkeypatch.setattr(yoyo_runner, "__file__", str(module))
    with pytest.raises(StateError, match="no migrations were found"):
        load_migrations()


@pytest.mark.parametrize(
    ("made", "named"),
    [
        ("CREATE TABLE tools (id serial, name text)", "description (missing)"),
        ("CREATE TABLE tools (id uuid, name text, description text)", "id (uuid)"),
        ("CREATE VIEW tools AS SELECT 1 AS id", "embedding (missing)"),
    ],
)
async def test_tools_of_somebody_else(empty_database: str, made: str, named: str) -> None:
    execute(empty_database, made)
    before = catalogue_of(empty_database)
    with pytest.raises(StateError) as caught:
        await migrate(empty_database)
    assert "no ToolBox registry" in caught.value.message
    assert named in caught.value.message
    assert caught.value.hint
    assert catalogue_of(empty_database) == before


@pytest.mark.parametrize("start", ["empty_database", "alembic_database", "registry_database"])
async def test_dry_run_writes_nothing(start: str, request: pytest.FixtureRequest) -> None:
    conninfo = request.getfixturevalue(start)
    before = catalogue_of(conninfo)
    # The server itself vouches for it: sessions of this database cannot write.
    name = psycopg.conninfo.conninfo_to_dict(conninfo)["dbname"]
    execute(conninfo, f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    outline = await migrate(conninfo, target(768), dry_run=True)
    assert titles(outline)
    if start != "empty_database":
        assert (await rollback(conninfo, "zero", dry_run=True)) is not None
    assert catalogue_of(conninfo) == before


@pytest.mark.parametrize("start", ["empty_database", "alembic_database"])
async def test_sql_script_by_psql_is_the_migration(
    start: str,
    request: pytest.FixtureRequest,
    server: EmbeddedServer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from toolbox_cli.cli import render

    conninfo = request.getfixturevalue(start)
    outline = await migrate(conninfo, target(768), dry_run=True)
    capsys.readouterr()
    render.sql(outline, as_json=False)
    script = capsys.readouterr().out
    command = [str(server.binary("psql")), "--dbname", conninfo, "--no-psqlrc", "--set", "ON_ERROR_STOP=1", "--quiet"]
    psql = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    _, said = await psql.communicate(script.encode())
    assert psql.returncode == 0, said.decode()
    by_psql = schema_of(conninfo)
    other = create_database(server)
    try:
        if start == "alembic_database":
            registries.load_alembic(other)
        await migrate(other, target(768))
        assert schema_of(other) == by_psql
    finally:
        drop_database(server, other)
    # Migrate then finds all done, and only marks it.
    marked = await migrate(conninfo, target(768))
    assert applied(conninfo) == MIGRATIONS
    assert not marked.losses
    assert schema_of(conninfo) == by_psql


@pytest.mark.parametrize("start", ["empty_database", "alembic_database"])
async def test_server_registers_tools_at_every_point(start: str, request: pytest.FixtureRequest) -> None:
    """DESIGN 4.1: the server's own statement works after every migration, change, roll back and prune."""
    conninfo = request.getfixturevalue(start)
    names = (f"tool number {number}" for number in range(100))
    for last in (1, 1, 1):
        await migrate_up_to(conninfo, last, target(768))
        server_insert(conninfo, next(names))
    for action in (
        migrate(conninfo, target(768)),
        migrate(conninfo, target(64)),
        rollback(conninfo),
        rollback(conninfo),
        migrate(conninfo, target(64)),
        migrate(conninfo, target(3072)),
        registries.prune(conninfo),
        migrate(conninfo, target(5000)),
        rollback(conninfo, "002"),
        rollback(conninfo, "001"),
        migrate(conninfo, target(8)),
    ):
        await action
        server_insert(conninfo, next(names))
        server_insert(conninfo, next(names))
    assert value(conninfo, "SELECT count(*) FROM tools WHERE name LIKE 'tool number %'") == 25


async def test_yoyo_itself_refuses(empty_database: str) -> None:
    """The migrations need a target, which yoyo's command line cannot give."""
    file = load_migrations()[0]
    with yoyo_runner._backend(empty_database, 500) as backend, pytest.raises(StateError, match="need a plan"):
        backend.apply_one(file.migration)
    assert applied(empty_database) == []
