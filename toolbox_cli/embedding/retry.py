"""Retries of one batch: named faults only, capped in attempts and in time, with jitter, as the service
asks.
"""

from __future__ import annotations

import logging
import random
import time
from typing import TYPE_CHECKING, TypeVar

import stamina

from toolbox_cli.embedding.faults import PassingFaultError, ServiceFailedError, ThrottledError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

#: No batch is ever sent more often than this, whatever the fault says.
MOST_ATTEMPTS = 20
_FIRST_WAIT = 0.25
_LONGEST_WAIT = 8.0

# stamina logs each retry as a warning; without a handler Python's last resort would print it into the
# progress bar.
logging.getLogger("stamina").addHandler(logging.NullHandler())


class Patience:
    """stamina's backoff hook for one batch: says how long to wait before the next attempt, in seconds, or
    False.

    A wait that would end after ``retry_timeout`` seconds from the first attempt is not begun.
    """

    def __init__(self, retry_timeout: float) -> None:
        self._retry_timeout = retry_timeout
        self._started = time.monotonic()
        self.attempts = 0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def __call__(self, exc: Exception) -> bool | float:
        self.attempts += 1
        if not isinstance(exc, PassingFaultError | ServiceFailedError) or self.attempts >= exc.most_attempts:
            return False
        wait = self._wait(exc)
        return wait if self.seconds + wait <= self._retry_timeout else False

    def _wait(self, exc: PassingFaultError | ServiceFailedError) -> float:
        if isinstance(exc, ServiceFailedError):
            return 0.1 * self.attempts
        # Jitter is not security: it keeps the workers that were refused together from coming back together.
        spread = random.random()  # noqa: S311
        if exc.retry_after is None:
            return min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** (self.attempts - 1)) * (1 + 0.25 * spread)
        # A service that says "12ms" for ever must not use up the attempts at once.
        floor = min(2.0, 0.1 * 2.0 ** (self.attempts - 3)) if self.attempts > 2 else 0.0
        return max(exc.retry_after, floor) * (1 + 0.1 * spread) + 0.02 * spread


async def persist(action: Callable[[], Awaitable[T]], *, retry_timeout: float) -> T:
    """Run ``action`` until it works, fails for good, or ``retry_timeout`` seconds are over (0: one attempt).

    Raises what ``action`` raises; a PassingFaultError that outlasted the retries says how often and how long.
    """
    patience = Patience(retry_timeout)
    try:
        async for attempt in stamina.retry_context(on=patience, attempts=MOST_ATTEMPTS, timeout=retry_timeout or None):
            with attempt:
                return await action()
    except PassingFaultError as fault:
        waited = f" ({patience.attempts} attempts in {patience.seconds:.1f} s)" if patience.attempts > 1 else ""
        if isinstance(fault, ThrottledError) and fault.retry_after and fault.retry_after > retry_timeout:
            waited += f"; it asks to wait {fault.retry_after:.0f} s, more than TOOLBOX_RETRY_TIMEOUT allows"
        if waited:
            raise type(fault)(
                f"{fault.message}{waited}",
                hint=fault.hint,
                retry_after=fault.retry_after,
                most_attempts=fault.most_attempts,
            ) from fault
        raise
    raise AssertionError("stamina ended without an answer or an exception")
