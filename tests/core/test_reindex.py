"""Reindex as an operator sees it: what is embedded, what is not, what is sent, and what is kept when it goes wrong."""

from __future__ import annotations

import signal
import subprocess
import time
from typing import Any

import pytest
from support.cli import DIMENSION, Service, Toolbox, finish, start
from support.registries import execute, rows, value, vectors
from support.reindexing import FRESH, add_tools, census, counts, reindexed, stored_right
from support.service import Fault

QUARANTINE = "SELECT t.name, f.error FROM embedding_failures f JOIN tools t ON t.id = f.tool_id ORDER BY t.name"


def test_embeds_every_active_tool_once_and_leaves_updated_at_alone(
    toolbox: Toolbox, registry: str, service: Service
) -> None:
    add_tools(registry, 150)
    add_tools(registry, 3, active=False, prefix="off")
    assert counts(reindexed(toolbox("reindex", "--json"))) == (150, 150, 0, 0)
    assert service.stats.inputs == len(service.stats.texts) == 150
    stored_right(registry)
    assert value(registry, "SELECT count(*) FROM tools WHERE updated_at <> '2020-01-01'") == 0
    assert census(toolbox) == {"active": 150, "fresh": 150, "stale": 0, "missing": 0, "failed": 0}

    assert counts(reindexed(toolbox("reindex", "--json"))) == (150, 0, 150, 0)
    assert service.stats.inputs == 150
    assert "Nothing to do" in toolbox("reindex").ok().out


def test_an_edited_tool_is_stale_and_is_embedded_again(toolbox: Toolbox, registry: str, service: Service) -> None:
    add_tools(registry, 20)
    toolbox("reindex").ok()
    execute(registry, "UPDATE tools SET description = 'does another thing' WHERE name = 'tool_7'")
    assert census(toolbox)["stale"] == 1
    assert counts(reindexed(toolbox("reindex", "--json"))) == (20, 1, 19, 0)
    stored_right(registry)


def test_selections(toolbox: Toolbox, registry: str, service: Service) -> None:
    add_tools(registry, 10)
    add_tools(registry, 5, category="other", prefix="other")
    add_tools(registry, 2, active=False, prefix="off")
    assert counts(reindexed(toolbox("reindex", "--limit", "3", "--json")))[1] == 3
    assert counts(reindexed(toolbox("reindex", "--category", "other", "--json"))) == (5, 5, 0, 0)
    tool_id = str(value(registry, "SELECT id FROM tools WHERE name = 'tool_9'"))
    assert counts(reindexed(toolbox("reindex", "--tool", "tool_8", "--tool", tool_id, "--json"))) == (2, 2, 0, 0)
    assert counts(reindexed(toolbox("reindex", "--json"))) == (15, 5, 10, 0)
    assert counts(reindexed(toolbox("reindex", "--include-inactive", "--json"))) == (17, 2, 15, 0)
    assert service.stats.inputs == 17
    assert counts(reindexed(toolbox("reindex", "--all", "--json"))) == (15, 15, 0, 0)
    assert service.stats.inputs == 32
    toolbox("reindex", "--tool", "nobody").refused(1, "nobody")
    assert service.stats.inputs == 32


def test_dry_run_sends_and_writes_nothing(toolbox: Toolbox, registry: str, service: Service) -> None:
    add_tools(registry, 12)
    plan = toolbox("reindex", "--dry-run", "--json").ok().json
    assert (plan["selected"], plan["pending"], plan["unchanged"]) == (12, 12, 0)
    assert service.stats.requests == 0
    assert value(registry, FRESH) == 0


@pytest.mark.parametrize("concurrency", [1, 4])
def test_never_more_requests_under_way_than_allowed(
    toolbox: Toolbox, registry: str, service: Service, concurrency: int
) -> None:
    add_tools(registry, 60)
    service.behaviour.latency = 0.02
    reindexed(toolbox("reindex", "--concurrency", str(concurrency), "--batch-size", "3", "--json"))
    assert service.stats.max_concurrency == concurrency
    assert service.stats.largest_batch == 3


def test_refused_tools_stand_alone_and_are_listed(toolbox: Toolbox, registry: str, service: Service) -> None:
    add_tools(registry, 100)
    service.behaviour.refuse = {"thing 13.": 400, "thing 77.": 500}
    service.behaviour.refuse_message = "input (9000 tokens) is too large to process"
    summary = reindexed(toolbox("reindex", "--json"), code=1)
    assert counts(summary) == (100, 98, 0, 2)
    assert {failure["name"] for failure in summary["failures"]} == {"tool_13", "tool_77"}
    assert all("too large" in failure["error"] for failure in summary["failures"])
    assert [name for name, error in rows(registry, QUARANTINE) if "too large" in error] == ["tool_13", "tool_77"]
    assert census(toolbox)["failed"] == 2

    sent = service.stats.inputs
    shown = toolbox("reindex")
    assert shown.code == 1
    assert "2 failed" in shown.out
    assert "tool_13" in shown.out
    assert service.stats.inputs - sent < 10, "the good ones must not be sent again"

    execute(registry, "UPDATE tools SET description = 'short' WHERE name = 'tool_13'")
    service.behaviour.refuse = {}
    assert counts(reindexed(toolbox("reindex", "--json"))) == (100, 2, 98, 0)
    assert rows(registry, QUARANTINE) == []
    stored_right(registry)


def test_a_service_that_is_down_ends_it_quickly(toolbox: Toolbox, registry: str, service: Service) -> None:
    add_tools(registry, 50)
    service.stop()
    started = time.monotonic()
    outcome = toolbox("reindex", TOOLBOX_RETRY_TIMEOUT="1")
    assert time.monotonic() - started < 10
    assert outcome.code == 6, outcome
    assert outcome.err.count("error: ") == 1
    assert "refused" in outcome.err
    assert rows(registry, QUARANTINE) == []


def test_a_service_that_refuses_everything_is_no_hundred_failures(
    toolbox: Toolbox, registry: str, service: Service
) -> None:
    add_tools(registry, 50)
    service.behaviour.api_key = "right"
    outcome = toolbox("reindex", EMBEDDING_API_KEY="wrong-key-7")
    assert outcome.code == 6, outcome
    assert outcome.err.count("error: ") == 1
    assert "wrong-key-7" not in outcome.out + outcome.err
    assert rows(registry, QUARANTINE) == []


def test_a_service_that_dies_midway_costs_only_what_was_left(toolbox: Toolbox, registry: str, service: Service) -> None:
    add_tools(registry, 200)
    dying = [Fault(status=200, drop=True, times=1_000)]

    def die_after_some(texts: list[str]) -> None:
        if service.stats.embedded >= 60:
            service.behaviour.faults = dying

    service.on_texts = die_after_some
    options = ("reindex", "--batch-size", "10", "--concurrency", "2", "--json")
    outcome = toolbox(*options, TOOLBOX_RETRY_TIMEOUT="0.5")
    assert outcome.code == 6, outcome
    kept = int(value(registry, FRESH))
    assert kept == service.stats.embedded >= 60
    assert outcome.json["embedded"] == kept

    service.on_texts, service.behaviour.faults = None, []
    sent = service.stats.inputs
    assert counts(reindexed(toolbox(*options))) == (200, 200 - kept, kept, 0)
    assert service.stats.inputs - sent == 200 - kept
    stored_right(registry)


@pytest.mark.parametrize(
    "garbage",
    [
        {"nan_for": "thing"},
        {"zero_for": "thing"},
        {"extra_items": -1},
        {"extra_items": 1},
        {"answer_dimension": DIMENSION + 1},
        {"answer_body": '{"data": []}'},
        {"answer_body": "<html>Welcome</html>", "answer_type": "text/html"},
    ],
    ids=lambda given: "-".join(f"{name}" for name in given),
)
def test_nothing_wrong_is_ever_stored(
    toolbox: Toolbox, registry: str, service: Service, garbage: dict[str, Any]
) -> None:
    add_tools(registry, 20)
    for name, given in garbage.items():
        setattr(service.behaviour, name, given)
    outcome = toolbox("reindex", "--json", TOOLBOX_RETRY_TIMEOUT="0.5")
    assert outcome.code in (1, 6), outcome
    assert "Traceback" not in outcome.err
    assert vectors(registry) == {}


def test_one_vector_that_is_no_number_does_not_stop_the_others(
    toolbox: Toolbox, registry: str, service: Service
) -> None:
    add_tools(registry, 30)
    service.behaviour.nan_for = "thing 13."
    summary = reindexed(toolbox("reindex", "--json", TOOLBOX_RETRY_TIMEOUT="0.5"), code=1)
    assert counts(summary) == (30, 29, 0, 1)
    assert summary["failures"][0]["name"] == "tool_13"
    assert "tool_13" not in vectors(registry)
    stored_right(registry)


def test_a_tool_edited_while_it_is_embedded_is_taken_again(toolbox: Toolbox, registry: str, service: Service) -> None:
    add_tools(registry, 10)

    def edit(texts: list[str]) -> None:
        if any("thing 5." in text for text in texts):
            execute(registry, "UPDATE tools SET description = 'edited' WHERE name = 'tool_5'")

    service.on_texts = edit
    summary = reindexed(toolbox("reindex", "--json"))
    assert summary["failed"] == 0
    assert census(toolbox)["fresh"] == 10
    stored_right(registry)


def test_a_tool_that_changes_all_the_time_stays_stale(toolbox: Toolbox, registry: str, service: Service) -> None:
    add_tools(registry, 3)

    def edit(texts: list[str]) -> None:
        execute(registry, "UPDATE tools SET description = description || '!' WHERE name = 'tool_2'")

    service.on_texts = edit
    toolbox("reindex", "--json").ok()
    assert census(toolbox)["fresh"] == 2
    assert "tool_2" not in vectors(registry)
    stored_right(registry)


def test_too_many_requests_are_waited_out(toolbox: Toolbox, registry: str, service: Service) -> None:
    add_tools(registry, 60)
    service.behaviour.faults = [Fault(status=429, times=3, headers={"retry-after-ms": "20"})]
    assert counts(reindexed(toolbox("reindex", "--batch-size", "10", "--json"))) == (60, 60, 0, 0)
    stored_right(registry)


def test_a_batch_limit_is_learned(toolbox: Toolbox, registry: str, service: Service) -> None:
    add_tools(registry, 100)
    service.behaviour.batch_limit = 7
    assert counts(reindexed(toolbox("reindex", "--json"))) == (100, 100, 0, 0)
    assert service.stats.embedded == 100
    stored_right(registry)


def test_two_processes_share_the_work(registry: str, service: Service) -> None:
    add_tools(registry, 3000)
    service.behaviour.latency = 0.02
    both = [start("reindex", "--json", "--concurrency", "2") for _ in range(2)]
    summaries = [reindexed(finish(process)) for process in both]
    assert sum(summary["embedded"] for summary in summaries) == 3000
    assert service.stats.inputs == service.stats.embedded == 3000
    assert value(registry, FRESH) == 3000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_what_is_done(
    toolbox: Toolbox, registry: str, service: Service, number: signal.Signals
) -> None:
    add_tools(registry, 300)
    service.behaviour.latency = 0.05
    process = start("reindex", "--json", "--batch-size", "5", "--concurrency", "2")

    def interrupt(texts: list[str]) -> None:
        if service.stats.embedded >= 50:
            service.on_texts = None
            process.send_signal(number)

    service.on_texts = interrupt
    outcome = finish(process)
    assert outcome.code == 130, outcome
    assert len(outcome.err.splitlines()) == 1
    kept = int(value(registry, FRESH))
    assert 50 <= kept < 300
    # What was answered is stored, the requests under way at that moment included if they answer within the grace: on a
    # machine under load they may not, and an interrupted run must end within two seconds.
    assert service.stats.embedded - kept <= 10

    service.behaviour.latency = 0
    sent = service.stats.inputs
    assert counts(reindexed(toolbox("reindex", "--json"))) == (300, 300 - kept, kept, 0)
    assert service.stats.inputs - sent == 300 - kept


def test_a_killed_run_leaves_nothing_locked(toolbox: Toolbox, registry: str, service: Service) -> None:
    add_tools(registry, 100)
    service.behaviour.latency = 0.05
    process = start("reindex", "--batch-size", "5", "--concurrency", "2", stderr=subprocess.DEVNULL)
    assert service.arrived.wait(10)
    process.kill()
    finish(process)
    service.behaviour.latency = 0
    reindexed(toolbox("reindex", "--json"))
    assert value(registry, FRESH) == 100
    stored_right(registry)
