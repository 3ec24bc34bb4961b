"""status during a change: how far it is, what is in the way, and what to do next."""

from __future__ import annotations

import threading
import time

import psycopg
from support.cli import Service, Toolbox
from support.registries import execute
from support.reindexing import add_tools


def online(service: Service) -> tuple[str, ...]:
    return ("migrate", "--online", "--model", "new-model", "--dimension", "16", "--endpoint-url", service.url)


def test_from_the_beginning_to_the_end_of_a_change(
    toolbox: Toolbox, registry: str, old_service: Service, new_service: Service
) -> None:
    add_tools(registry, 500)
    toolbox("reindex").ok()
    before = toolbox("status", "--json").ok().json
    assert before["blockers"] is None
    toolbox(*online(new_service)).ok()
    begun = toolbox("status", "--json").ok().json
    assert begun["next_command"] == "toolbox reindex"
    assert [blocker.split(":")[0] for blocker in begun["blockers"]] == ["coverage", "index"]
    assert begun["generations"]["building"]["census"]["missing"] == 500
    # Never asked before: nobody knows how fast it is.
    assert begun["generations"]["building"]["seconds_left"] is None
    assert begun["generations"]["current"]["seconds_left"] == 0

    new_service.behaviour.capacity = 500
    toolbox("reindex", "--limit", "250").ok()
    halfway = toolbox("status", "--json").ok().json["generations"]["building"]
    assert halfway["census"]["fresh"] == 250
    assert 0.05 < halfway["seconds_left"] < 60
    text = toolbox("status").ok().out
    assert "250 of 500 active tools fresh, 250 missing, about" in text
    assert "blocked     index" in text

    toolbox("reindex").ok()
    ready = toolbox("status", "--json").ok().json
    assert (ready["next_command"], ready["blockers"]) == ("toolbox cutover", [])
    assert "`toolbox compare`" in toolbox("status").ok().out
    add_tools(registry, 1, prefix="newer")
    assert toolbox("status", "--json").ok().json["next_command"] == "toolbox reindex"

    toolbox("reindex", "--cutover").ok()
    done = toolbox("status", "--json").ok().json
    assert (done["next_command"], done["blockers"]) == (None, None)
    assert done["generations"]["previous"]["index"]["valid"]
    assert "kept for `toolbox rollback`" in toolbox("status").ok().out

    toolbox("rollback").ok()
    aside = toolbox("status", "--json").ok().json
    assert aside["generations"]["building"]["rolled_back"]
    assert (aside["next_command"], aside["blockers"]) == (None, None)


def test_an_index_that_is_being_built(
    toolbox: Toolbox, registry: str, old_service: Service, new_service: Service
) -> None:
    """Held up by a transaction that is older, as every build CONCURRENTLY is."""
    add_tools(registry, 20)
    toolbox(*online(new_service)).ok()
    toolbox("reindex").ok()
    execute(registry, "DROP INDEX ix_tools_embedding_next")

    def build() -> None:
        execute(
            registry,
            "CREATE INDEX CONCURRENTLY ix_tools_embedding_next ON tools USING hnsw (embedding_next vector_cosine_ops)",
        )

    with psycopg.connect(registry) as older:
        older.execute("UPDATE tools SET version = '2' WHERE name = 'tool_1'")
        builder = threading.Thread(target=build)
        builder.start()
        deadline = time.monotonic() + 20
        while (found := toolbox("status", "--json").ok().json["generations"]["building"]["index_build"]) is None:
            assert time.monotonic() < deadline
        assert "waiting" in found["phase"]
        assert f"index: {found['phase']}" in toolbox("status").ok().out
        older.rollback()
        builder.join(20)
    assert toolbox("status", "--json").ok().json["generations"]["building"]["index"]["valid"]
