"""Reindex workers: any number of processes on any number of hosts, known to each other through PostgreSQL alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from toolbox_cli.db.faults import database_errors
from toolbox_cli.db.locks import WORKER_LOCK, registry_lock
from toolbox_cli.db.queries import always, query
from toolbox_cli.domain.errors import LockBusyError, StateError

if TYPE_CHECKING:
    import psycopg

    from toolbox_cli.domain.ports import Progress


@asynccontextmanager
async def as_worker(
    connection: psycopg.AsyncConnection, wait_seconds: float, progress: Progress
) -> AsyncIterator[None]:
    """Keep schema and generations as they are, and be counted as a live worker, as long as this session lives.

    Waits for a worker of an earlier run that is building the index; raises LockBusyError after ``wait_seconds``.
    """
    async with (
        registry_lock(connection, wait_seconds=wait_seconds, progress=progress, shared=True),
        registry_lock(connection, wait_seconds=wait_seconds, progress=progress, shared=True, key=WORKER_LOCK),
    ):
        yield


@asynccontextmanager
async def as_last_worker(connection: psycopg.AsyncConnection) -> AsyncIterator[bool]:
    """Whether no worker is alive but us; while it is, none can start.

    Each worker gives its own lock back before it asks, so of several that end at once one is told True.
    """
    async with AsyncExitStack() as stack:
        try:
            # The schema must stay as it is while an index is planned and built.
            await stack.enter_async_context(registry_lock(connection, wait_seconds=0, shared=True))
            await stack.enter_async_context(registry_lock(connection, wait_seconds=0, key=WORKER_LOCK))
        except LockBusyError:
            alone = False
        else:
            alone = True
        yield alone


async def check_session(first: psycopg.AsyncConnection, second: psycopg.AsyncConnection) -> None:
    """Raise StateError when a pooler hands out server sessions by transaction: locks would not stay with us.

    A process number that differs from the one of the connection's start shows that a pooler is between. It is in
    transaction mode if two clients of it are answered by one server process, or one client by two.
    """
    with database_errors():
        before = await _server_process(second)
        if before == second.info.backend_pid:
            return
        async with first.transaction():
            held = await _server_process(first)
            after = await _server_process(second)
    if held == before or after != before:
        raise StateError(
            "DATABASE_URL leads to a connection pooler in transaction mode; the locks that share the work between"
            " processes belong to a session and would be lost between two statements",
            hint="Connect to PostgreSQL directly, or to a pool in session mode (PgBouncer: pool_mode = session).",
        )


async def _server_process(connection: psycopg.AsyncConnection) -> int:
    cursor = await connection.execute(query("locks", "server_process"))
    return int(always(await cursor.fetchone())[0])
