"""What verify finds beside wrong vectors: leftovers, equal and odd vectors, and how searches are planned."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg
import pytest
from support.cli import Service, Toolbox
from support.registries import execute, literal, rows, value
from support.reindexing import add_tools

from toolbox_cli.db import search as search_module
from toolbox_cli.db.locks import LOCK_SPACE, SCHEMA_LOCK

#: What is left, in words that must be said, and the command that clears it up.
LEFTOVERS = {
    "yoyo's lock row": (
        "INSERT INTO yoyo_lock (locked, ctime, pid) VALUES (1, now(), 4711)",
        "yoyo_lock",
        "toolbox migrate",
    ),
    "change log": (
        "CREATE TABLE embedding_changes (tool_id bigint)",
        "change log of a cutover",
        "toolbox migrate",
    ),
    "invalid text index": (
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_tools_text'::regclass",
        "text index is invalid",
        "toolbox migrate",
    ),
    "invalid vector index": (
        "CREATE INDEX ix_tools_embedding_ccnew ON tools USING hnsw (embedding vector_cosine_ops);"
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_tools_embedding_ccnew'::regclass",
        "ix_tools_embedding_ccnew",
        "toolbox migrate",
    ),
    "second vector index": (
        "CREATE INDEX another ON tools USING hnsw (embedding vector_cosine_ops)",
        "another",
        "DROP INDEX",
    ),
}


def check(toolbox: Toolbox, name: str, *, code: int = 0) -> dict[str, Any]:
    outcome = toolbox("verify", "--json")
    assert outcome.code == code, outcome
    return next(check for check in outcome.json["checks"] if check["name"] == name)


@pytest.mark.parametrize(("left", "said", "remedy"), LEFTOVERS.values(), ids=LEFTOVERS)
def test_leftovers_are_named_and_cleared_up(
    toolbox: Toolbox, catalogue: str, left: str, said: str, remedy: str
) -> None:
    execute(catalogue, left)
    found = check(toolbox, "leftovers")
    assert found["status"] == "warn"
    assert said in found["detail"]
    assert found["remedy"].startswith(remedy)
    if remedy.startswith("toolbox"):
        toolbox(*remedy.split()[1:]).ok()
    else:
        execute(catalogue, found["remedy"])
    assert check(toolbox, "leftovers")["status"] == "pass"


def test_rebuilding_the_index_serves_searches_meanwhile(toolbox: Toolbox, catalogue: str) -> None:
    before = value(catalogue, "SELECT 'ix_tools_embedding'::regclass::oid")
    report = toolbox("reindex", "--rebuild-index", "--json").ok().json
    assert report["index_seconds"] > 0
    after = rows(
        catalogue, "SELECT indexrelid, indisvalid FROM pg_index WHERE indexrelid = 'ix_tools_embedding'::regclass"
    )
    assert after[0][0] != before
    assert after[0][1] is True
    assert value(catalogue, "SELECT count(*) FROM pg_class WHERE relname LIKE 'ix_tools_embedding%'") == 1
    toolbox("verify").ok()


def test_some_equal_vectors_are_named(toolbox: Toolbox, registry: str, service: Service) -> None:
    add_tools(registry, 60)
    toolbox("reindex").ok()
    execute(
        registry,
        "UPDATE tools SET embedding = (SELECT embedding FROM tools WHERE name = 'tool_1') WHERE name = 'tool_2'",
    )
    found = check(toolbox, "duplicates", code=1)
    assert found["status"] == "warn"
    assert "tool_1 and tool_2" in found["detail"]
    drift = check(toolbox, "drift", code=1)
    assert "tool_2" in drift["detail"], "equal vectors are made again, whatever the sample is"


def test_a_service_that_answers_the_same_to_everything(toolbox: Toolbox, registry: str, service: Service) -> None:
    add_tools(registry, 60)
    service.behaviour.read_chars = 4
    toolbox("reindex").ok()
    found = check(toolbox, "duplicates", code=1)
    assert found["status"] == "fail"
    assert "60 tools of different texts share 1 vectors" in found["detail"]
    assert "look at what the service answers" in found["remedy"]


def test_what_nobody_finds_is_no_fault(toolbox: Toolbox, registry: str, service: Service) -> None:
    """The vector of a tool that is switched off: reindex would leave it as it is."""
    add_tools(registry, 30)
    toolbox("reindex").ok()
    execute(registry, "UPDATE tools SET is_active = false, embedding = '[0,0,0,0,0,0,0,0]' WHERE name = 'tool_1'")
    toolbox("verify").ok()


def test_what_the_service_refuses_is_not_mended_by_asking_again(
    toolbox: Toolbox, registry: str, service: Service
) -> None:
    service.behaviour.refuse = {"thing 3.": 400}
    add_tools(registry, 30)
    assert toolbox("reindex").code == 1
    assert "toolbox deactivate NAME" in check(toolbox, "coverage", code=1)["remedy"]
    toolbox("deactivate", "tool_3").ok()
    toolbox("verify").ok()


def test_a_command_at_work_has_left_nothing_behind(toolbox: Toolbox, registry: str, service: Service) -> None:
    execute(registry, "CREATE TABLE embedding_changes (tool_id bigint)")
    with psycopg.connect(registry, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s, %s)", [LOCK_SPACE, SCHEMA_LOCK])
        assert check(toolbox, "leftovers", code=0)["status"] == "pass"
    assert check(toolbox, "leftovers", code=0)["status"] == "warn"


def test_a_vector_far_from_all_others_is_made_again(toolbox: Toolbox, catalogue: str) -> None:
    """A sample of one meets it too: what is odd is looked at besides."""
    tool_id, name, dimension = rows(
        catalogue, "SELECT id, name, vector_dims(embedding) FROM tools ORDER BY id DESC LIMIT 1"
    )[0]
    noise = np.random.default_rng(5).standard_normal(dimension)
    execute(catalogue, "UPDATE tools SET embedding = %s WHERE id = %s", [literal(noise), tool_id])
    outcome = toolbox("verify", "--json", "--sample", "1")
    drift = next(check for check in outcome.json["checks"] if check["name"] == "drift")
    assert drift["status"] == "fail"
    assert f"1 are not this model's of this text: {name}" in drift["detail"]


def test_the_planner_is_asked_what_it_does(
    toolbox: Toolbox, registry: str, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_module, "EXACT_UP_TO", 100)
    add_tools(registry, 300)
    toolbox("reindex").ok()
    found = check(toolbox, "planner")
    # Of 300 vectors a plain query rightly reads them all: cheaper than the index, and worth a warning only beyond.
    assert "ix_tools_embedding" in found["detail"]


def test_status_suggests_a_threshold_of_the_generation_itself(toolbox: Toolbox, catalogue: str) -> None:
    """It leaves out what is hardly related, and keeps the tool that is asked for."""
    threshold = toolbox("status", "--json").ok().json["generations"]["current"]["suggested_threshold"]
    assert 0 < threshold < 0.6
    assert f"--threshold {threshold:g}" in toolbox("status").ok().out
    asked = ("search", "calculate numbers", "--mode", "vector", "--json", "--limit", "100")
    everything = toolbox(*asked).ok().json["results"]
    kept = toolbox(*asked, "--threshold", str(threshold)).ok().json["results"]
    assert kept[0]["name"] == "calculator"
    assert 0 < len(kept) < len(everything) / 2
    execute(catalogue, "DELETE FROM tools WHERE id NOT IN (SELECT id FROM tools ORDER BY id LIMIT 10)")
    assert toolbox("status", "--json").ok().json["generations"]["current"]["suggested_threshold"] is None
