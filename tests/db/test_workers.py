"""Several reindex processes: known to each other, never in each other's way, never beside a change of the schema."""

from __future__ import annotations

import threading
import time

import psycopg
from support.cli import Service, Toolbox, finish, registry, service, start, toolbox
from support.registries import value
from support.reindexing import FRESH, add_tools, reindexed

from toolbox_cli.db.workers import as_last_worker, as_worker, check_session

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


async def test_only_the_last_worker_is_alone(registry: str) -> None:
    async with (
        await psycopg.AsyncConnection.connect(registry, autocommit=True) as one,
        await psycopg.AsyncConnection.connect(registry, autocommit=True) as two,
    ):
        async with as_worker(one, 1):
            async with as_worker(two, 1):
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
