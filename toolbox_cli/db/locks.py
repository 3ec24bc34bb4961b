"""Advisory locks: who may change the schema and the generations.

A session-level advisory lock dies with its session, so a killed command leaves nothing behind. Commands that
change the schema or the generations take it exclusively; a reindex takes it shared, so that any number of them
run side by side but never beside a change of what they write to.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import psycopg

from toolbox_cli.db.faults import database_errors
from toolbox_cli.db.queries import query
from toolbox_cli.domain.errors import LockBusyError

if TYPE_CHECKING:
    from toolbox_cli.domain.ports import Progress

#: First key of all our advisory locks: the bytes of "tool". The second key says which lock it is.
LOCK_SPACE = 0x746F6F6C
SCHEMA_LOCK = 1
#: Held shared by every live reindex worker, exclusively by the one that builds the index after them.
WORKER_LOCK = 2
#: Seconds of waiting that nobody need be told of.
NOTED_AFTER = 1.0


@asynccontextmanager
async def registry_lock(
    connection: psycopg.AsyncConnection,
    *,
    wait_seconds: float,
    progress: Progress | None = None,
    shared: bool = False,
    key: int = SCHEMA_LOCK,
) -> AsyncIterator[None]:
    """Hold one of our locks on this session; raises LockBusyError that names the holder after ``wait_seconds``.

    A longer wait is noted, by the holder's name.
    It is polled, not waited for: a waiting session would show up as blocked, and could not be interrupted cleanly.
    """
    mode = "shared" if shared else "exclusive"
    began = time.monotonic()
    with database_errors():
        while not await _try(connection, mode, key):
            waited = time.monotonic() - began
            if waited >= wait_seconds:
                raise LockBusyError(
                    f"another toolbox command is at work on this registry: {await _holder(connection, key)}",
                    hint="Wait until it has ended (`toolbox status` shows it), then run this again.",
                )
            if progress is not None and waited > NOTED_AFTER:
                progress.note(f"waiting for another toolbox command: {await _holder(connection, key)}")
                progress = None
            await asyncio.sleep(0.1)
    try:
        yield
    finally:
        # A lost session has released its locks by itself.
        if not connection.closed and not connection.broken:
            with database_errors():
                await connection.execute(query("locks", f"unlock_{mode}"), {"space": LOCK_SPACE, "key": key})


async def _try(connection: psycopg.AsyncConnection, mode: str, key: int) -> bool:
    cursor = await connection.execute(query("locks", f"try_lock_{mode}"), {"space": LOCK_SPACE, "key": key})
    row = await cursor.fetchone()
    return bool(row and row[0])


async def _holder(connection: psycopg.AsyncConnection, key: int) -> str:
    cursor = await connection.execute(query("locks", "lock_holder"), {"space": LOCK_SPACE, "key": key})
    row = await cursor.fetchone()
    if row is None:
        return "it has just ended"
    pid, name, since = row
    return f"{name or 'an unnamed session'} (server process {pid}, since {since:%Y-%m-%d %H:%M:%S} UTC)"
