"""How fast to ask: a semaphore that shrinks when the service is too busy, and a limit of tools per second."""

from __future__ import annotations

import asyncio
import time


class Pace:
    """At most ``ceiling`` requests under way, fewer after setbacks, and at most ``max_rate`` tools a second.

    Additive increase, multiplicative decrease, as in TCP (Chiu and Jain, 1989): a setback takes 40 % of the permits
    away, two rounds of answers without one give a permit back.
    """

    SHRINK = 0.6
    #: Setbacks of requests that were under way together are one event: they are counted once in so many seconds.
    SETTLE_SECONDS = 1.0

    def __init__(self, ceiling: int, max_rate: float | None = None) -> None:
        self._semaphore = asyncio.Semaphore(ceiling)
        self._ceiling = ceiling
        self._allowed = ceiling
        #: Permits to be kept back instead of released: the semaphore cannot be lowered while they are out.
        self._withheld = 0
        self._good_answers = 0
        self._last_shrink = 0.0
        self._max_rate = max_rate
        self._next_start = 0.0
        self._open_again = 0.0

    @property
    def allowed(self) -> int:
        """Requests that may be under way now."""
        return self._allowed

    async def enter(self, tools: int) -> None:
        """Wait for a permit, for the end of a pause, and for the rate."""
        await self._semaphore.acquire()
        try:
            if (wait := self._open_again - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            if self._max_rate is not None:
                now = time.monotonic()
                start = max(now, self._next_start)
                self._next_start = start + tools / self._max_rate
                await asyncio.sleep(start - now)
        except BaseException:  # a cancelled request, too, would take its permit along
            self.leave()
            raise

    def leave(self) -> None:
        """Give the permit back, or let it go if there are to be fewer."""
        if self._withheld > 0:
            self._withheld -= 1
        else:
            self._semaphore.release()

    def setback(self) -> None:
        """The service was too busy: fewer requests from now on."""
        now = time.monotonic()
        self._good_answers = 0
        if now - self._last_shrink < self.SETTLE_SECONDS:
            return
        self._last_shrink = now
        fewer = max(1, int(self._allowed * self.SHRINK))
        self._withheld += self._allowed - fewer
        self._allowed = fewer

    def success(self) -> None:
        """An answer without a setback: after two rounds of them one more request is allowed."""
        if self._allowed >= self._ceiling:
            return
        self._good_answers += 1
        if self._good_answers >= 2 * self._allowed:
            self._good_answers = 0
            self._allowed += 1
            self.leave()

    def pause(self, seconds: float) -> None:
        """Start nothing new for so long: the service said when to come back."""
        self._open_again = max(self._open_again, time.monotonic() + seconds)
