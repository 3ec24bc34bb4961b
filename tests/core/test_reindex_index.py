"""The vector index of a reindex: dropped for a large load, built after it, completed after a crash."""

from __future__ import annotations

import re
import signal
import time

import psycopg
import pytest
from support.cli import Service, Toolbox, finish, start
from support.registries import execute, value
from support.reindexing import FRESH, add_tools, reindexed

from toolbox_cli.core import filling

INDEX = (
    "SELECT (SELECT indexrelid::int FROM pg_index WHERE indexrelid = to_regclass('ix_tools_embedding') AND indisvalid)"
)


@pytest.fixture
def large(registry: str, service: Service, monkeypatch: pytest.MonkeyPatch) -> str:
    """A registry that counts as large from fifty tools on."""
    monkeypatch.setattr(filling, "DEFER_INDEX_FROM", 50)
    add_tools(registry, 200)
    return registry


def test_a_large_load_drops_the_index_and_builds_it_after(toolbox: Toolbox, large: str, service: Service) -> None:
    before = value(large, INDEX)
    seen: list[object] = []
    service.on_texts = lambda texts: seen.append(value(large, "SELECT to_regclass('ix_tools_embedding')::text"))
    assert toolbox("reindex", "--dry-run", "--json").ok().json["defers_index"]
    summary = reindexed(toolbox("reindex", "--json"))
    assert set(seen) == {None}
    assert summary["index_seconds"] > 0
    assert value(large, INDEX) not in (None, before)
    toolbox("verify").ok()


def test_a_small_change_leaves_the_index_alone(toolbox: Toolbox, large: str, service: Service) -> None:
    reindexed(toolbox("reindex", "--json"))
    before = value(large, INDEX)
    execute(large, "UPDATE tools SET description = 'other' WHERE id IN (SELECT id FROM tools LIMIT 20)")
    summary = reindexed(toolbox("reindex", "--json"))
    assert (summary["embedded"], summary["index_seconds"]) == (20, 0)
    assert value(large, INDEX) == before


def test_keep_index_leaves_it_whatever_is_touched(toolbox: Toolbox, large: str, service: Service) -> None:
    before = value(large, INDEX)
    assert reindexed(toolbox("reindex", "--keep-index", "--json"))["embedded"] == 200
    assert value(large, INDEX) == before


def test_a_crash_between_is_named_by_verify_and_completed_by_the_next_run(
    toolbox: Toolbox, registry: str, service: Service
) -> None:
    # With 8 dimensions the test service has 4096 vectors, and verify would find many texts with the same one.
    service.behaviour.dimension = 16
    toolbox("migrate", "--dimension", "16", "--yes").ok()
    add_tools(registry, 1200)
    service.behaviour.latency = 0.05
    process = start("reindex", "--batch-size", "20", "--concurrency", "2")
    assert service.arrived.wait(20)
    process.kill()
    finish(process)
    assert value(registry, INDEX) is None
    service.behaviour.latency = 0
    reindexed(toolbox("reindex", "--json"))
    assert value(registry, INDEX) is not None

    # The same, when the load was complete already: there is nothing to embed, but the index is missing.
    execute(registry, "DROP INDEX ix_tools_embedding")
    failing = {
        check["name"]: check for check in toolbox("verify", "--json").json["checks"] if check["status"] == "fail"
    }
    assert set(failing) == {"index"}
    assert failing["index"]["remedy"] == "toolbox reindex"
    assert reindexed(toolbox("reindex", "--json"))["embedded"] == 0
    assert value(registry, INDEX) is not None
    toolbox("verify").ok()


def test_an_invalid_leftover_is_replaced(toolbox: Toolbox, large: str, service: Service) -> None:
    reindexed(toolbox("reindex", "--json"))
    execute(large, "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_tools_embedding'::regclass")
    assert value(large, INDEX) is None
    assert toolbox("reindex", "--dry-run", "--json").ok().json["builds_index"]
    assert "the vector index would be built" in toolbox("reindex", "--dry-run").ok().out
    assert reindexed(toolbox("reindex", "--json"))["index_seconds"] > 0
    assert value(large, INDEX) is not None


def test_a_run_that_only_builds_the_index_says_so(toolbox: Toolbox, large: str, service: Service) -> None:
    reindexed(toolbox("reindex", "--json"))
    execute(large, "DROP INDEX ix_tools_embedding")
    said = toolbox("reindex").ok().out
    assert re.fullmatch(
        r"Nothing to embed: all 200 tools have a fresh embedding\.\nvector index built in \d+\.\d s\n", said
    )
    assert not toolbox("reindex", "--dry-run", "--json").ok().json["builds_index"]
    assert "Nothing to do" in toolbox("reindex").ok().out


def test_an_interrupted_build_ends_at_once_and_is_made_up_for(
    toolbox: Toolbox, registry: str, service: Service
) -> None:
    add_tools(registry, 1200)
    # CREATE INDEX CONCURRENTLY waits for transactions that are older than it.
    with psycopg.connect(registry) as older:
        older.execute("SELECT txid_current()")
        process = start("reindex")
        deadline = time.monotonic() + 30
        building = "SELECT count(*) FROM pg_stat_progress_create_index"
        while not value(registry, building):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        asked = time.monotonic()
        process.send_signal(signal.SIGINT)
        outcome = finish(process)
        assert time.monotonic() - asked < 10
        assert outcome.code == 130, outcome
        assert value(registry, FRESH) == 1200
        assert value(registry, INDEX) is None
    assert reindexed(toolbox("reindex", "--json"))["index_seconds"] > 0
    assert value(registry, INDEX) is not None


def test_an_ivfflat_index_is_built_after_the_first_load_and_after_every_large_one(
    toolbox: Toolbox, large: str, service: Service
) -> None:
    toolbox("migrate", "--index", "ivfflat").ok()
    assert value(large, INDEX) is None
    for _ in range(2):
        assert reindexed(toolbox("reindex", "--all", "--json"))["index_seconds"] > 0
        assert value(large, INDEX) is not None
        assert "ivfflat" in value(large, "SELECT pg_get_indexdef('ix_tools_embedding'::regclass)")


def test_a_selection_that_is_large_in_itself_but_not_in_the_registry_keeps_the_index(
    toolbox: Toolbox, large: str, service: Service
) -> None:
    add_tools(large, 1000, prefix="more")
    reindexed(toolbox("reindex", "--json"))
    before = value(large, INDEX)
    add_tools(large, 60, category="other", prefix="other")
    assert reindexed(toolbox("reindex", "--category", "other", "--json"))["embedded"] == 60
    assert value(large, INDEX) == before


def test_an_index_in_use_does_not_hold_up_the_load(toolbox: Toolbox, large: str, service: Service) -> None:
    with psycopg.connect(large) as reader:
        reader.execute("SELECT count(*) FROM tools")  # its transaction stays open
        process = start("reindex", "--json", env={"TOOLBOX_WAIT_TIMEOUT": "1"})
        assert service.arrived.wait(20)
    assert reindexed(finish(process))["embedded"] == 200
    assert value(large, INDEX) is not None
