"""Several reindex processes: known to each other, never in each other's way, never beside a change of the schema."""

from __future__ import annotations

import subprocess
import threading
import time

import psycopg
import pytest
from support.cli import Service, Toolbox, finish, registry, run_process, service, start, toolbox
from support.registries import execute, value
from support.reindexing import FRESH, add_tools, reindexed, stored_right

from toolbox_cli.db.ranges import MOST_MARKS, PRESENT, PostgresRanges
from toolbox_cli.db.workers import as_last_worker, as_worker, check_session
from toolbox_cli.domain.models import Role
from toolbox_cli.domain.ports import SilentProgress
from toolbox_cli.domain.reindexing import RANGE_SIZE, Selection

__all__ = ["registry", "service", "toolbox"]


def test_status_shows_who_is_at_work_and_migrate_is_refused_meanwhile(
    toolbox: Toolbox, registry: str, service: Service
) -> None:
    add_tools(registry, 20)
    assert toolbox("status", "--json").ok().json["workers"] == []
    service.hold = threading.Event()
    process = start("reindex")
    assert service.arrived.wait(20)
    workers = toolbox("status", "--json").ok().json["workers"]
    assert len(workers) == 1
    assert workers[0].startswith("toolbox reindex ")
    assert workers[0] in toolbox("status").ok().out
    toolbox("migrate", "--dimension", "9", "--yes", TOOLBOX_WAIT_TIMEOUT="0.3").refused(5, "toolbox reindex")
    service.hold.set()
    assert finish(process).code == 0
    assert toolbox("status", "--json").ok().json["workers"] == []


def test_a_killed_workers_range_is_taken_over_at_once(registry: str, service: Service) -> None:
    add_tools(registry, 300)
    service.hold = threading.Event()
    first = start("reindex", "--concurrency", "1", "--batch-size", "10")
    assert service.arrived.wait(20)
    second = start("reindex", "--concurrency", "1", "--json")
    holders = "SELECT count(DISTINCT pid) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ShareLock'"
    deadline = time.monotonic() + 20
    while value(registry, holders) != 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    first.kill()
    finish(first)
    service.hold.set()
    killed = time.monotonic()
    assert reindexed(finish(second))["embedded"] == 300
    assert time.monotonic() - killed < 15
    assert value(registry, FRESH) == 300


@pytest.fixture
def spread(toolbox: Toolbox, registry: str, service: Service) -> str:
    """A registry whose 400 embedded tools lie in 50 ranges of ids."""
    add_tools(registry, 400)
    execute(registry, f"UPDATE tools SET id = id * {RANGE_SIZE // 8} + 100000")
    toolbox("reindex").ok()
    return registry


def start_two(registry: str, service: Service, *command: str) -> list[subprocess.Popen[str]]:
    """Both are at work before either is answered."""
    service.behaviour.latency = 0.02
    service.hold = threading.Event()
    both = [start(*command) for _ in range(2)]
    joined = f"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = {PRESENT}"
    deadline = time.monotonic() + 60
    while value(registry, joined) != 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    service.hold.set()
    return both


def test_two_workers_that_make_everything_anew_share_it(spread: str, service: Service) -> None:
    before = service.stats.embedded
    command = ("reindex", "--all", "--concurrency", "2", "--batch-size", "8", "--json")
    both = start_two(spread, service, *command)
    shares = [reindexed(finish(process, timeout=90))["embedded"] for process in both]
    assert sum(shares) == service.stats.embedded - before == 400
    assert min(shares) > 0
    # What the two knew of each other is gone: asked again, it is done again.
    assert reindexed(run_process(*command))["embedded"] == 400


def test_the_last_range_is_not_made_twice_by_whoever_waits_for_it(spread: str, service: Service) -> None:
    """Who holds it ends as soon as it is done, while the other one looks at it again only now and then."""
    before, slow = service.stats.embedded, threading.Event()
    service.on_texts = lambda texts: slow.wait(60) if any("thing 1." in text for text in texts) else None
    both = start_two(spread, service, "reindex", "--all", "--concurrency", "2", "--batch-size", "8", "--json")
    deadline = time.monotonic() + 60
    while service.stats.embedded < before + 392:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    # By now the other one has looked at all that was done, and has nothing left but this range to wait for.
    time.sleep(1)
    slow.set()
    assert sum(reindexed(finish(process, timeout=90))["embedded"] for process in both) == 400
    assert service.stats.embedded == before + 400


def test_what_a_killed_worker_had_begun_to_make_anew_is_made_anew(spread: str, service: Service) -> None:
    """Its tools look fresh, done or not."""
    execute(spread, "UPDATE tools SET embedding = '[1,0,0,0,0,0,0,0]'")
    before = service.stats.embedded
    killed, other = start_two(spread, service, "reindex", "--all", "--concurrency", "2", "--batch-size", "4")
    deadline = time.monotonic() + 60
    while service.stats.embedded < before + 120:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert killed.poll() is None
    killed.kill()
    finish(killed)
    assert finish(other, timeout=90).code == 0
    stored_right(spread)


async def test_marks_are_for_those_who_were_asked_for_the_same(registry: str) -> None:
    everything, one_category = Selection(everything=True), Selection(everything=True, category="test")
    async with (
        await psycopg.AsyncConnection.connect(registry, autocommit=True) as one,
        await psycopg.AsyncConnection.connect(registry, autocommit=True) as two,
    ):
        mine = PostgresRanges(one, Role.CURRENT, everything)
        await mine.join()
        for number in range(MOST_MARKS + 3):
            assert await mine.claim(number)
            await mine.mark(number)
            await mine.release(number)
        yours = PostgresRanges(two, Role.CURRENT, everything)
        # The oldest had to make room.
        assert await yours.marked() == {*range(3, MOST_MARKS + 3), PRESENT}
        for others in (PostgresRanges(two, Role.CURRENT, one_category), PostgresRanges(two, Role.BUILDING, everything)):
            assert await others.marked() == set()
        assert await mine.claim(7)
        assert not await yours.claim(7)
        assert await yours.others()
        await mine.taken_all()
        assert not await yours.others()
        assert await yours.marked() == {*range(3, MOST_MARKS + 3)}
        await mine.release(7)
        await mine.leave()
        assert await yours.marked() == set()
        locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        assert value(registry, locks) == 0


async def test_only_the_last_worker_is_alone(registry: str) -> None:
    async with (
        await psycopg.AsyncConnection.connect(registry, autocommit=True) as one,
        await psycopg.AsyncConnection.connect(registry, autocommit=True) as two,
    ):
        async with as_worker(one, 1, SilentProgress()):
            async with as_worker(two, 1, SilentProgress()):
                pass
            async with as_last_worker(two) as alone:
                assert not alone
        async with as_last_worker(one) as alone:
            assert alone
            async with as_last_worker(two) as also:
                assert not also


async def test_a_direct_connection_is_no_pooler(registry: str) -> None:
    async with (
        await psycopg.AsyncConnection.connect(registry, autocommit=True) as one,
        await psycopg.AsyncConnection.connect(registry, autocommit=True) as two,
    ):
        await check_session(one, two)
