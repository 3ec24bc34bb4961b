"""Ranges of ids, shared by live workers through PostgreSQL's advisory locks alone: they die with their session."""

from __future__ import annotations

import hashlib
from collections import deque
from typing import TYPE_CHECKING

from psycopg.rows import scalar_row

from toolbox_cli.db.faults import database_errors
from toolbox_cli.db.locks import LOCK_SPACE
from toolbox_cli.db.queries import always, query
from toolbox_cli.domain.models import Role

if TYPE_CHECKING:
    import psycopg

    from toolbox_cli.domain.reindexing import Selection

#: Further lock spaces, one per live role, with one key per range of ids ("tooR", "tooS", "tooT").
RANGE_SPACES = {role: LOCK_SPACE - 0x6C + 0x52 + place for place, role in enumerate(Role)}
#: The key, among its marks, of a worker that makes everything anew and still takes ranges: far beyond every range.
PRESENT = 2**31 - 1
#: How many marks a worker keeps, the oldest go first: whoever is still at work has long looked at those. Besides, at
#: most this part of what the server has room for, which all its sessions share (by default 6,400 locks).
MOST_MARKS, SHARE_OF_ROOM = 500, 16


class PostgresRanges:
    """The claims of one worker, on the session that it writes with; see ``domain.reindexing.Ranges``."""

    def __init__(self, writer: psycopg.AsyncConnection, role: Role, selection: Selection) -> None:
        self._writer = writer
        self._space = RANGE_SPACES[role]
        # Marks are for workers that were asked for the very same: a space of their own.
        digest = hashlib.blake2b(f"{role}:{selection.model_dump_json()}".encode(), digest_size=4).digest()
        self._marks_space = int.from_bytes(digest, signed=True)
        self._marks: deque[int] = deque()
        self._most = MOST_MARKS

    async def claim(self, number: int) -> bool:
        return await self._lock("try_lock_exclusive", self._space, number)

    async def release(self, number: int) -> None:
        await self._lock("unlock_exclusive", self._space, number)

    async def join(self) -> None:
        with database_errors():
            room = always(await (await self._writer.execute(query("locks", "room"))).fetchone())[0]
        self._most = min(MOST_MARKS, room // SHARE_OF_ROOM)
        await self._lock("try_lock_shared", self._marks_space, PRESENT)

    async def mark(self, number: int) -> None:
        await self._lock("try_lock_shared", self._marks_space, number)
        self._marks.append(number)
        if len(self._marks) > self._most:
            await self._lock("unlock_shared", self._marks_space, self._marks.popleft())

    async def marked(self) -> set[int]:
        with database_errors():
            async with self._writer.cursor(row_factory=scalar_row) as cursor:
                await cursor.execute(query("locks", "keys_of_others"), {"space": self._marks_space})
                return set(await cursor.fetchall())

    async def taken_all(self) -> None:
        await self._lock("unlock_shared", self._marks_space, PRESENT)

    async def others(self) -> bool:
        return PRESENT in await self.marked()

    async def leave(self) -> None:
        with database_errors():
            await self._writer.execute(query("locks", "unlock_space"), {"space": self._marks_space})
        self._marks.clear()

    async def _lock(self, statement: str, space: int, key: int) -> bool:
        with database_errors():
            async with self._writer.cursor(row_factory=scalar_row) as cursor:
                await cursor.execute(query("locks", statement), {"space": space, "key": key})
                return bool(await cursor.fetchone())
