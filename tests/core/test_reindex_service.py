"""Reindex against services that are busy, slow, gone, picky: what is waited out, what is cut, what ends the run."""

from __future__ import annotations

import threading
import time

import pytest
from support.cli import Service, Toolbox, finish, start
from support.registries import execute, value
from support.reindexing import FRESH, add_tools, counts, reindexed, stored_right
from support.service import Fault

from toolbox_cli.core import pipeline


def test_a_long_retry_after_is_waited_out_and_said(toolbox: Toolbox, registry: str, service: Service) -> None:
    add_tools(registry, 40)
    service.behaviour.faults = [Fault(status=429, times=4, headers={"retry-after": "1"})]
    started = time.monotonic()
    outcome = toolbox("reindex", "--batch-size", "10", "--json", TOOLBOX_RETRY_TIMEOUT="0.2")
    assert counts(reindexed(outcome)) == (40, 40, 0, 0)
    assert time.monotonic() - started >= 1
    assert "asks to wait" in outcome.err
    stored_right(registry)


def test_a_busy_service_is_asked_less_and_gets_everything(toolbox: Toolbox, registry: str, service: Service) -> None:
    add_tools(registry, 400)
    service.behaviour.latency = 0.01
    service.behaviour.max_in_flight = 3
    assert counts(reindexed(toolbox("reindex", "--concurrency", "12", "--batch-size", "4", "--json")))[1] == 400
    assert service.stats.embedded == 400
    # Without a shrinking pace most of the hundred requests would have been refused, again and again.
    assert service.stats.refused < 100
    stored_right(registry)


def test_no_quota_left_is_not_waited_for(toolbox: Toolbox, registry: str, service: Service) -> None:
    add_tools(registry, 10)
    service.behaviour.faults = [Fault(status=429, times=99, code="insufficient_quota", message="quota exceeded")]
    started = time.monotonic()
    outcome = toolbox("reindex")
    assert (outcome.code, "quota" in outcome.err) == (6, True), outcome
    assert time.monotonic() - started < 5


def test_a_service_that_hangs_midway_ends_the_run_and_what_is_done_stays(
    toolbox: Toolbox, registry: str, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "GONE_AFTER", 1.0)
    add_tools(registry, 60)

    released = threading.Event()

    def hang(texts: list[str]) -> None:
        if service.stats.embedded >= 30:
            released.wait(30)

    service.on_texts = hang
    started = time.monotonic()
    outcome = toolbox("reindex", "--batch-size", "5", "--concurrency", "2")
    took = time.monotonic() - started
    released.set()
    assert (outcome.code, "answered nothing" in outcome.err) == (6, True), outcome
    assert took < 15
    assert int(value(registry, FRESH)) >= 30


def test_the_rate_is_held(toolbox: Toolbox, registry: str, service: Service) -> None:
    add_tools(registry, 60)
    summary = reindexed(toolbox("reindex", "--batch-size", "5", "--max-rate", "50", "--json"))
    assert summary["embedded"] == 60
    assert 15 <= summary["tools_per_second"] <= 56


def test_a_batch_limit_is_remembered_by_the_next_run(toolbox: Toolbox, registry: str, service: Service) -> None:
    add_tools(registry, 100)
    service.behaviour.batch_limit = 7
    reindexed(toolbox("reindex", "--json"))
    assert service.stats.refused > 0
    refused = service.stats.refused
    execute(registry, "UPDATE tools SET description = description || ' Better.'")
    assert reindexed(toolbox("reindex", "--json"))["embedded"] == 100
    assert service.stats.refused == refused


def test_the_speed_is_remembered_for_the_estimate(toolbox: Toolbox, registry: str, service: Service) -> None:
    add_tools(registry, 300)
    assert toolbox("reindex", "--dry-run", "--json").ok().json["seconds"] is None
    reindexed(toolbox("reindex", "--json"))
    plan = toolbox("reindex", "--all", "--dry-run", "--json").ok().json
    assert plan["seconds"] > 0
    assert plan["reasons"] == {"missing": 0, "stale": 0, "failed_before": 0, "forced": 300}
    assert plan["requests"] == 5


@pytest.fixture
def minilm(toolbox: Toolbox, registry: str, service: Service) -> str:
    """A registry for a model that reads 256 tokens."""
    service.behaviour.dimension = 384
    toolbox("migrate", "--model", "all-MiniLM-L6-v2", "--dimension", "384", "--yes").ok()
    add_tools(registry, 5)
    execute(registry, "UPDATE tools SET description = repeat('word ', 2000) WHERE name = 'tool_3'")
    return registry


def test_a_long_text_is_cut_to_what_the_model_reads_and_said(toolbox: Toolbox, minilm: str, service: Service) -> None:
    outcome = toolbox("reindex", "--json", EMBEDDING_MODEL="all-MiniLM-L6-v2")
    assert counts(reindexed(outcome)) == (5, 5, 0, 0)
    assert "1 text" in outcome.err
    assert max(map(len, service.stats.texts)) == 256 * 4


def test_a_long_text_is_refused_where_that_is_asked_for(toolbox: Toolbox, minilm: str, service: Service) -> None:
    outcome = toolbox("reindex", "--long-texts", "refuse", "--json", EMBEDDING_MODEL="all-MiniLM-L6-v2")
    summary = reindexed(outcome, 1)
    assert counts(summary) == (5, 4, 0, 1)
    assert summary["failures"][0]["name"] == "tool_3"
    assert "256 tokens" in summary["failures"][0]["error"]


def test_odd_characters_are_made_sendable(toolbox: Toolbox, registry: str, service: Service) -> None:
    add_tools(registry, 3)
    execute(
        registry,
        r"""UPDATE tools SET input_schema = '{"type":"object","properties":{"a\u0000b":{},"c\ud800d":{}}}'"""
        " WHERE name = 'tool_2'",
    )
    execute(registry, "UPDATE tools SET name = '  ', description = ' ' WHERE name = 'tool_3'")
    summary = reindexed(toolbox("reindex", "--json"), 1)
    assert counts(summary) == (3, 2, 0, 1)
    assert "blank" in summary["failures"][0]["error"]
    sent = next(text for text in service.stats.texts if text.startswith("tool 2"))
    assert "\x00" not in sent
    assert sent.isprintable() or "\n" in sent


def test_the_operators_batch_size_is_not_taken_for_the_services_limit(
    toolbox: Toolbox, registry: str, service: Service
) -> None:
    add_tools(registry, 130)
    reindexed(toolbox("reindex", "--batch-size", "1", "--limit", "2", "--json"))
    sent = service.stats.requests
    assert reindexed(toolbox("reindex", "--json"))["embedded"] == 128
    assert service.stats.requests - sent == 2


def test_a_limit_is_not_exceeded_because_a_tool_was_edited_meanwhile(
    toolbox: Toolbox, registry: str, service: Service
) -> None:
    add_tools(registry, 40)

    def edit(texts: list[str]) -> None:
        service.on_texts = None
        execute(registry, "UPDATE tools SET description = 'edited' WHERE id = (SELECT min(id) FROM tools)")

    service.on_texts = edit
    outcome = toolbox("reindex", "--limit", "10", "--json")
    summary = reindexed(outcome)
    assert (summary["selected"], summary["embedded"]) == (10, 9)
    assert service.stats.inputs == 10
    assert "1 tool was edited" in outcome.err


def test_a_service_that_turns_to_refusing_everything_ends_the_run(
    toolbox: Toolbox, registry: str, service: Service
) -> None:
    add_tools(registry, 400)

    def turn(texts: list[str]) -> None:
        if service.stats.embedded >= 100:
            service.behaviour.refuse = {" ": 400}

    service.on_texts = turn
    outcome = toolbox("reindex", "--batch-size", "10", "--concurrency", "2")
    assert outcome.code == 6, outcome
    assert "refuses every text" in outcome.err
    assert int(value(registry, FRESH)) >= 100


def test_everything_by_two_workers_is_paid_for_once(registry: str, service: Service) -> None:
    add_tools(registry, 5000)
    service.behaviour.latency = 0.02
    reindexed(finish(start("reindex", "--json")))
    sent = service.stats.inputs
    both = [start("reindex", "--all", "--json", "--concurrency", "2") for _ in range(2)]
    summaries = [reindexed(finish(process, 60)) for process in both]
    assert sum(summary["embedded"] for summary in summaries) >= 5000
    # Nearly: a worker that starts when the other has ended a range cannot know that it was ended just now.
    assert service.stats.inputs - sent <= 5000 + 2048
