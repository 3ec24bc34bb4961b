"""Which worker does what: a range of ids belongs to whoever has claimed it, until it is given back.

What is missing or stale shows for itself whether somebody has done it. Where everything is made anew nothing tells a
vector that was made again from one that was not: there a worker marks the ranges that it has done, for as long as it
lives. What a killed one had begun has no mark, and is done by the others.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from toolbox_cli.domain.errors import DatabaseError, ToolboxError

if TYPE_CHECKING:
    from toolbox_cli.domain.ports import Progress
    from toolbox_cli.domain.reindexing import Ranges, Selection

#: Seconds between two looks at ranges that others hold.
POLL = 0.25


class Claims:
    """The claims of one pass. ``session`` is held while a statement runs: psycopg takes one at a time."""

    def __init__(self, ranges: Ranges, selection: Selection, session: asyncio.Lock) -> None:
        self._ranges = ranges
        self._selection = selection
        self._session = session
        self._done_by_others: set[int] = set()

    async def begin(self) -> None:
        if self._selection.everything:
            async with self._session:
                await self._ranges.join()

    async def take(self, number: int) -> Selection | None:
        """Claim a range; what is to be done in it, None while another live worker has it."""
        async with self._session:
            if not await self._ranges.claim(number):
                return None
            if not self._selection.everything:
                return self._selection
            # Looked at after the claim: whoever had it before has marked it before giving it back.
            self._done_by_others |= await self._ranges.marked()
        return self._selection.model_copy(update={"everything": number not in self._done_by_others})

    async def give_back(self, number: int, *, whole: bool) -> None:
        """``whole``: all of it was done, as far as it was asked for. The caller holds the session."""
        if whole and self._selection.everything:
            # Without a mark, for which the server may have no room, it may be done again: no reason to end.
            with suppress(DatabaseError):
                await self._ranges.mark(number)
        await self._ranges.release(number)

    async def taken_all(self) -> None:
        """There is no range left that this worker would take."""
        if self._selection.everything:
            async with self._session:
                await self._ranges.taken_all()

    async def let_others_look(self, stop: asyncio.Event, progress: Progress) -> None:
        """Keep the marks until the others have taken their last range: each looks at the marks when it takes one."""
        noted = False
        while self._selection.everything and not stop.is_set():
            async with self._session:
                if not await self._ranges.others():
                    return
            if not noted:
                progress.note("what is left is under way in other workers; waiting until they know what was done here")
                noted = True
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), POLL)

    async def end(self) -> None:
        """Take the marks away."""
        if self._selection.everything:
            # A session that is lost has taken them along.
            with suppress(ToolboxError):
                async with self._session:
                    await self._ranges.leave()
