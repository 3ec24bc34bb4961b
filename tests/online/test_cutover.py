"""cutover and rollback: what they refuse, what they wait for, and that they lose nothing."""

from __future__ import annotations

import asyncio
import threading
import time

import numpy as np
import psycopg
import pytest
from support.cli import Outcome, Service, Toolbox, finish, said, start
from support.postgres import configure
from support.registries import (
    catalogue_of,
    column_type,
    execute,
    indexes,
    literal,
    opened,
    random_vectors,
    roles,
    rows,
    target,
    value,
    vectors,
)
from support.reindexing import TOOLS, add_tools, census

from toolbox_cli.db.locks import LOCK_SPACE, SCHEMA_LOCK
from toolbox_cli.db.search import PostgresSearchStore
from toolbox_cli.domain.models import Role
from toolbox_cli.domain.ports import SilentProgress
from toolbox_cli.domain.searching import GenerationMovedError, SearchFilter


def refused(outcome: Outcome, *words: str) -> None:
    """By a gate: the checks on stdout, nothing on stderr, nothing done."""
    assert (outcome.code, outcome.err) == (1, ""), outcome
    assert "not cut over" in outcome.out
    for word in words:
        assert word in outcome.out, outcome


def test_dry_run_looks_and_writes_nothing(toolbox: Toolbox, built: str) -> None:
    before = catalogue_of(built)
    report = toolbox("cutover", "--dry-run", "--json").ok().json
    assert report["done"] is False
    assert [check["status"] for check in report["checks"]] == ["pass", "pass", "pass"]
    assert report["outline"]["steps"][0]["statements"]
    assert "ready: search would read new-model, 16 dimensions" in toolbox("cutover", "--dry-run").ok().out
    assert catalogue_of(built) == before


def test_it_catches_up_says_what_it_did_and_what_to_set(toolbox: Toolbox, built: str, new_service: Service) -> None:
    old, newer = vectors(built), vectors(built, "embedding_next")
    execute(built, "UPDATE tools SET description = 'edited' WHERE name = 'tool_1'")
    add_tools(built, 2, prefix="newer")
    asked = new_service.stats.embedded
    report = toolbox("cutover", "--json").ok().json
    assert report["done"] is True
    assert report["caught_up"] == new_service.stats.embedded - asked == 3
    assert report["former"] == {"model": "test-model", "dimension": 8}
    assert report["present"] == {"model": "new-model", "dimension": 16}
    assert 0 < report["locked_seconds"] < 1
    assert report["settings"].startswith("set EMBEDDING_MODEL=new-model")
    assert census(toolbox)["fresh"] == TOOLS + 2
    kept = vectors(built)
    assert {name: sent for name, sent in newer.items() if name != "tool_1"}.items() <= kept.items()
    assert vectors(built, "embedding_previous") == old
    assert sorted(indexes(built)) == ["ix_tools_embedding", "ix_tools_embedding_previous"]
    assert roles(built) == {"current": ("new-model", 16), "previous": ("test-model", 8)}

    again = toolbox("cutover").ok()
    assert "Nothing to do: search reads new-model, 16 dimensions since" in again.out
    assert toolbox("cutover", "--json").ok().json["already_since"]


def test_nothing_is_being_built(toolbox: Toolbox, registry: str) -> None:
    toolbox("cutover").refused(5, "no new generation is being built", "migrate --online")
    toolbox("reindex", "--cutover").refused(5, "no new generation is being built")


def test_reindex_and_cutover_in_one_go(
    toolbox: Toolbox, registry: str, old_service: Service, new_service: Service
) -> None:
    add_tools(registry, TOOLS)
    toolbox("reindex").ok()
    toolbox("migrate", "--online", "--model", "new-model", "--dimension", "16", "--endpoint-url", new_service.url).ok()
    done = toolbox("reindex", "--cutover", "--json").ok().json
    assert (done["embedded"], done["cutover"]["done"]) == (TOOLS, True)
    assert roles(registry)["current"] == ("new-model", 16)
    assert "since" in toolbox("reindex", "--cutover").ok().out


def test_an_incomplete_generation_is_refused(toolbox: Toolbox, built: str) -> None:
    add_tools(built, 101, prefix="newer")
    before = catalogue_of(built)
    refused(toolbox("cutover"), f"{TOOLS} of {TOOLS + 101} active tools", "→ toolbox reindex")
    assert catalogue_of(built) == before


def test_tools_that_the_service_refuses(toolbox: Toolbox, built: str, new_service: Service) -> None:
    new_service.behaviour.refuse = {"poison": 400}
    execute(built, "UPDATE tools SET description = 'poison' WHERE name = 'tool_2'")
    # Not known to be refused before the cutover itself asks for it.
    assert "tool_2" in toolbox("cutover").refused(1, "1 of the last tools were refused", "--force").err
    assert not value(built, "SELECT to_regclass('embedding_changes') IS NOT NULL")
    refused(toolbox("cutover"), "1 were refused by the service", "--force")
    toolbox("cutover", "--force").ok()
    assert census(toolbox) == {"active": TOOLS, "fresh": TOOLS - 1, "stale": 0, "missing": 0, "failed": 1}


def test_no_index_no_cutover(toolbox: Toolbox, built: str) -> None:
    execute(built, "DROP INDEX ix_tools_embedding_next")
    refused(toolbox("cutover"), "ix_tools_embedding_next: there is none", "→ toolbox reindex")
    execute(built, "CREATE INDEX ix_tools_embedding_next ON tools USING hnsw (embedding_next vector_l2_ops)")
    refused(toolbox("cutover"), "its operator class is vector_l2_ops")
    assert column_type(built) == "vector(8)"
    forced = toolbox("cutover", "--force").ok().out
    assert "Next: toolbox verify looks again at what was no obstacle: index" in forced
    verified = {check["name"]: check for check in toolbox("verify", "--json").json["checks"]}
    assert verified["index"]["remedy"] == "toolbox reindex"


def test_an_index_that_went_while_the_lock_was_waited_for(toolbox: Toolbox, built: str) -> None:
    """A reindex that began meanwhile has put it off until after its load."""
    with psycopg.connect(built, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s, %s)", [LOCK_SPACE, SCHEMA_LOCK])
        process = start("cutover")
        waiting = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE application_name LIKE 'toolbox cutover%' AND query LIKE '%pg_try_advisory_lock(%'"
        )
        deadline = time.monotonic() + 60
        while not value(built, waiting):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        execute(built, "DROP INDEX ix_tools_embedding_next")
    refused(finish(process, timeout=60), "ix_tools_embedding_next: there is none", "→ toolbox reindex")
    assert roles(built)["building"] == ("new-model", 16)


@pytest.fixture
def poor_index(built: str) -> str:
    """An index that finds little: two neighbours an element, on vectors that have nothing to do with each other."""
    made = random_vectors(3000, 16)
    with psycopg.connect(built) as connection, connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO tools (name, description, implementation_type, is_active, embedding_next)"
            " VALUES (%s, 'x', 'external', true, %s::vector)",
            [(f"filler_{n}", literal(vector)) for n, vector in enumerate(made)],
        )
    execute(
        built,
        "UPDATE tools SET embedding_next_fingerprint = toolbox_seal('new-model', 16, '', 1, name, description,"
        " input_schema) WHERE name LIKE 'filler%'; DROP INDEX ix_tools_embedding_next;"
        "CREATE INDEX ix_tools_embedding_next ON tools USING hnsw (embedding_next vector_cosine_ops)"
        " WITH (m = 2, ef_construction = 4)",
    )
    return built


def test_an_index_that_finds_too_little_is_refused(toolbox: Toolbox, poor_index: str) -> None:
    refused(toolbox("cutover"), "expected at least 0.95", "recall@10, 50 queries")
    report = toolbox("cutover", "--dry-run", "--json").json
    assert [check["name"] for check in report["checks"] if check["status"] == "fail"] == ["recall"]
    assert toolbox("cutover", "--dry-run", "--json").json["checks"] == report["checks"], "two looks agree"
    toolbox("cutover", "--min-recall", "0.01").ok()


def test_dependents_are_refused_and_forced(toolbox: Toolbox, built: str) -> None:
    execute(built, "CREATE VIEW neighbours AS SELECT name, embedding FROM tools")
    toolbox("cutover").refused(5, "view neighbours (column embedding)", "--force")
    toolbox("reindex", "--cutover").refused(5, "view neighbours")
    assert "view neighbours" in toolbox("status", "--json").ok().json["blockers"][0]
    assert "view neighbours" in toolbox("cutover", "--dry-run").ok().out
    toolbox("cutover", "--force").ok()


def test_edits_between_the_last_look_and_the_lock_are_caught_up(
    toolbox: Toolbox, built: str, new_service: Service
) -> None:
    """The server edits another tool while the last one is being embedded, three times over."""
    edited = iter(range(2, 5))

    def edit(texts: list[str]) -> None:
        if (number := next(edited, None)) is not None:
            execute(built, f"UPDATE tools SET description = 'edited {number}' WHERE name = 'tool_{number}'")

    execute(built, "UPDATE tools SET description = 'edited 1' WHERE name = 'tool_1'")
    new_service.on_texts = edit
    assert toolbox("cutover", "--json").ok().json["caught_up"] == 4
    assert census(toolbox)["fresh"] == TOOLS


def test_a_registry_that_changes_faster_than_it_can_be_embedded(
    toolbox: Toolbox, built: str, new_service: Service
) -> None:
    new_service.on_texts = lambda texts: execute(
        built, "UPDATE tools SET description = clock_timestamp()::text WHERE name = 'tool_1'"
    )
    execute(built, "UPDATE tools SET description = 'edited' WHERE name = 'tool_1'")
    outcome = toolbox("cutover", TOOLBOX_WAIT_TIMEOUT="1").refused(1, "faster than they can be embedded", "--force")
    assert "Nothing was changed" in outcome.err
    assert column_type(built) == "vector(8)"
    assert value(built, "SELECT to_regclass('embedding_changes') IS NULL")
    toolbox("cutover", "--force").ok()
    new_service.on_texts = None
    assert census(toolbox)["stale"] + census(toolbox)["missing"] == 1


def test_the_holder_of_the_table_is_named_and_nobody_waits_behind_the_cutover(toolbox: Toolbox, built: str) -> None:
    before = vectors(built)
    waits: list[float] = []
    stop = threading.Event()

    def read() -> None:
        with psycopg.connect(built, autocommit=True) as connection:
            while not stop.is_set():
                started = time.monotonic()
                connection.execute("SELECT count(*) FROM tools WHERE embedding IS NOT NULL")
                waits.append(time.monotonic() - started)
                time.sleep(0.001)

    reader = threading.Thread(target=read)
    reader.start()
    with psycopg.connect(built, application_name="a long report") as other:
        other.execute("SELECT count(*) FROM tools")
        outcome = toolbox("cutover", TOOLBOX_WAIT_TIMEOUT="1.5").refused(5, "a long report", notes=True)
        pid = other.info.backend_pid
    stop.set()
    reader.join()
    assert f"server process {pid} (a long report, idle in transaction" in outcome.err
    assert max(waits) < 1
    assert (column_type(built), vectors(built)) == ("vector(8)", before)
    # What watched the server could not be dropped beside the report; it sleeps, and goes with the next cutover.
    watching = "SELECT tgenabled::text FROM pg_trigger WHERE tgname = 'toolbox_note_change'"
    assert rows(built, watching) == [("D",)]
    toolbox("cutover").ok()
    assert rows(built, watching) == []
    assert value(built, "SELECT to_regclass('embedding_changes') IS NULL")


def test_a_cutover_goes_through_when_the_table_is_free_again(toolbox: Toolbox, built: str) -> None:
    with psycopg.connect(built, application_name="a short report") as other:
        other.execute("SELECT count(*) FROM tools")
        process = start("cutover")
        said(process, "waiting for the table 'tools': server process")
        other.rollback()
    outcome = finish(process, timeout=60)
    assert outcome.code == 0, outcome
    assert roles(built)["current"] == ("new-model", 16)


def test_an_autovacuum_gives_way(toolbox: Toolbox, built: str) -> None:
    """It would hold up a change for as long as it takes; PostgreSQL sends it away only after a second of waiting."""
    execute(built, "UPDATE tools SET version = version")
    slow = {
        "autovacuum_naptime": "1s",
        "autovacuum_vacuum_cost_delay": "100ms",
        "autovacuum_vacuum_cost_limit": "1",
    }
    configure(built, autovacuum="on", **slow)
    try:
        execute(built, "ALTER TABLE tools SET (autovacuum_vacuum_threshold = 1, autovacuum_vacuum_scale_factor = 0)")
        running = "SELECT count(*) FROM pg_stat_progress_vacuum WHERE relid = 'tools'::regclass"
        deadline = time.monotonic() + 60
        while not value(built, running):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        toolbox("cutover", TOOLBOX_WAIT_TIMEOUT="10").ok()
    finally:
        configure(built, autovacuum="off", **dict.fromkeys(slow))


def test_rollback_brings_every_vector_back_bit_for_bit_and_pays_for_what_changed(
    toolbox: Toolbox, built: str, old_service: Service
) -> None:
    before = vectors(built)
    toolbox("cutover").ok()
    execute(built, "UPDATE tools SET description = 'edited' WHERE name IN ('tool_1', 'tool_2')")
    add_tools(built, 1, prefix="newer")
    toolbox("reindex").ok()
    asked = old_service.stats.embedded
    told = toolbox("rollback", EMBEDDING_MODEL="new-model", EMBEDDING_DIMENSION="16").ok().out
    assert "Now set EMBEDDING_DIMENSION=8 and EMBEDDING_MODEL=test-model" in told
    # Also to whoever repeats it because it was killed before it had said so.
    again = toolbox("rollback", "--json", EMBEDDING_MODEL="new-model").ok().json
    assert (again["done"], again["settings"][:32]) == (False, "set EMBEDDING_MODEL=test-model (")
    assert vectors(built) == before
    toolbox("reindex").ok()
    assert old_service.stats.embedded == asked + 3
    now = vectors(built)
    assert {name for name in now if now[name] != before.get(name)} == {"tool_1", "tool_2", "newer_1"}
    found = toolbox("search", "tool 7: does thing 7.", "--json").ok().json
    assert found["results"][0]["similarity"] == pytest.approx(1, abs=1e-5)


def test_a_repeated_rollback_goes_no_further_than_was_meant(toolbox: Toolbox, built: str, new_service: Service) -> None:
    toolbox("cutover").ok()
    with Service(new_service.behaviour) as third:
        toolbox("migrate", "--online", "--model", "third", "--dimension", "16", "--endpoint-url", third.url).ok()
    abandoned = toolbox("rollback").ok()
    assert "abandon the generation being built" in abandoned.out
    assert roles(built) == {"current": ("new-model", 16), "previous": ("test-model", 8)}
    toolbox("rollback").refused(1, "has been abandoned already", "from new-model, 16 dimensions to test-model", "--yes")
    toolbox("rollback", "--yes").ok()
    assert roles(built)["current"] == ("test-model", 8)
    assert "already rolled back" in toolbox("rollback").ok().out


def test_what_is_abandoned_was_paid_for_and_needs_an_agreement(toolbox: Toolbox, built: str) -> None:
    toolbox("rollback").refused(1, f"{TOOLS} vectors of 16 dimensions by new-model")
    assert column_type(built, "embedding_next") == "vector(16)"
    toolbox("rollback", "--yes").ok()
    assert column_type(built, "embedding_next") is None
    assert "already rolled back" in toolbox("rollback", "--yes").ok().out


async def test_a_question_of_one_model_is_never_held_against_another(toolbox: Toolbox, built: str) -> None:
    """A search that read its generation before the swap, and its tools after it."""
    async with opened(built) as registry:
        before = (await registry.state()).require_generation(Role.CURRENT)
        store = PostgresSearchStore(registry.connection)
        vector = np.ones(8, dtype=np.float32)
        assert len(await store.nearest(before, vector, SearchFilter(), 5)) == 5
        await asyncio.to_thread(toolbox, "cutover")
        with pytest.raises(GenerationMovedError):
            await store.nearest(before, vector, SearchFilter(), 5)


async def test_under_the_lock_nothing_is_read_that_grows_with_the_registry(toolbox: Toolbox, built: str) -> None:
    """Neither by the swap, nor by the way back, nor by a change at once: no scan of the table at all."""
    scanned = (
        "SELECT pg_stat_force_next_flush(), seq_scan, seq_tup_read FROM pg_stat_user_tables WHERE relname = 'tools'"
    )
    async with opened(built) as registry:

        async def scans() -> tuple[int, int]:
            # Twice: a session hands its numbers on at the end of a statement.
            await registry.connection.execute(scanned)
            row = await (await registry.connection.execute(scanned)).fetchone()
            assert row is not None
            return row[1], row[2]

        swap = await registry.plan_cutover()
        await swap.watch_changes(SilentProgress())
        execute(built, "UPDATE tools SET description = description || '!' WHERE name = 'tool_1'")
        execute(
            built,
            "UPDATE tools SET embedding_next_fingerprint = toolbox_seal('new-model', 16, '', 1, name, description,"
            " input_schema) WHERE name = 'tool_1'",
        )
        before = await scans()
        await swap.execute(SilentProgress())
        assert await scans() == before
        for plan in (registry.plan_rollback(None), registry.plan_migrate(target(4, "third"))):
            planned = await plan
            before = await scans()
            for step in planned._planned.steps:
                await planned._once(step)
            assert await scans() == before
