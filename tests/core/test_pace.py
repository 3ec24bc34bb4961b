"""How fast reindex asks: fewer requests after setbacks, more after successes, a rate, a pause."""

from __future__ import annotations

import asyncio
import time

from toolbox_cli.core.pace import Pace


async def entered(pace: Pace, tools: int = 1) -> bool:
    """Whether a place is free now."""
    try:
        async with asyncio.timeout(0.02):
            await pace.enter(tools)
    except TimeoutError:
        return False
    return True


async def test_no_more_than_the_ceiling_at_once() -> None:
    pace = Pace(3)
    assert [await entered(pace) for _ in range(4)] == [True, True, True, False]
    pace.leave()
    assert await entered(pace)


async def test_a_setback_takes_permits_away_as_they_come_back() -> None:
    pace = Pace(10)
    for _ in range(10):
        await pace.enter(1)
    pace.setback()
    assert pace.allowed == 6
    for _ in range(4):
        pace.leave()
    assert not await entered(pace)
    pace.leave()
    assert await entered(pace)


async def test_setbacks_that_come_together_count_once() -> None:
    pace = Pace(10)
    for _ in range(10):
        pace.setback()
    assert pace.allowed == 6


async def test_never_below_one_request() -> None:
    pace = Pace(2)
    for _ in range(5):
        pace.setback()
        pace._last_shrink = 0.0  # as if a second had passed
    assert pace.allowed == 1
    await pace.enter(1)
    pace.leave()
    assert await entered(pace)


async def test_successes_give_permits_back_slowly_and_never_beyond_the_ceiling() -> None:
    pace = Pace(4)
    pace.setback()
    assert pace.allowed == 2
    for _ in range(3):
        pace.success()
    assert pace.allowed == 2
    pace.success()
    assert pace.allowed == 3
    for _ in range(100):
        pace.success()
    assert pace.allowed == 4
    assert [await entered(pace) for _ in range(5)] == [True, True, True, True, False]


async def test_the_rate_spreads_tools_over_time() -> None:
    pace = Pace(8, max_rate=100)
    started = time.monotonic()
    for _ in range(4):
        await pace.enter(10)
        pace.leave()
    assert 0.28 <= time.monotonic() - started < 5


async def test_a_pause_holds_everybody_back() -> None:
    pace = Pace(8)
    pace.pause(0.1)
    started = time.monotonic()
    await asyncio.gather(*(pace.enter(1) for _ in range(3)))
    assert 0.09 <= time.monotonic() - started < 5


async def test_a_cancelled_wait_gives_its_permit_back() -> None:
    pace = Pace(1)
    pace.pause(30)
    waiting = asyncio.create_task(pace.enter(1))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    pace._open_again = 0.0
    assert await entered(pace)
