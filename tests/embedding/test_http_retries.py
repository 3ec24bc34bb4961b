"""Faults that pass: waited for as the service asks, and not for ever."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import numpy as np
import pytest
from support.service import EmbeddingService, Fault, vectors_of

from toolbox_cli.domain.errors import InputRefusedError
from toolbox_cli.embedding.faults import (
    ServiceFailedError,
    ThrottledError,
    TimedOutError,
    UnreachableError,
)
from toolbox_cli.embedding.http import HttpEmbedder

DIMENSION = 48
TEXTS = [f"tool {i}: does thing {i}" for i in range(10)]

Make = Callable[..., HttpEmbedder]


def expected(texts: list[str]) -> Any:
    return vectors_of("m", texts, DIMENSION)


PASSING = [
    (Fault(429, headers={"retry-after-ms": "30"}, times=3), 3, 0.03),
    (Fault(429, headers={"Retry-After": "0.1"}), 1, 0.1),
    (Fault(429, headers={"x-ratelimit-reset-requests": "40ms", "x-ratelimit-reset-tokens": "50ms"}), 1, 0.04),
    (Fault(503, headers={"retry-after-ms": "30"}, shape="html"), 1, 0.03),
    (Fault(503, "loading model", times=2), 2, 0.0),
    (Fault(502, shape="html"), 0, 0.0),
    (Fault(504, shape="text"), 0, 0.0),
    (Fault(408), 0, 0.0),
    (Fault(500, "Internal Server Error", shape="text", times=2), 0, 0.0),
    (Fault(drop=True), 0, 0.0),
]


@pytest.mark.parametrize(("fault", "throttled", "waited"), PASSING, ids=lambda value: str(value)[:40])
async def test_faults_that_pass(
    service: EmbeddingService, make: Make, fault: Fault, throttled: int, waited: float
) -> None:
    service.behaviour.faults = [Fault(**vars(fault))]
    embedder = make()
    started = time.perf_counter()
    np.testing.assert_array_equal(await embedder.embed_documents(TEXTS), expected(TEXTS))
    assert time.perf_counter() - started >= waited * max(1, throttled)
    assert service.stats.requests == fault.times + 1
    assert embedder.throttled == throttled


@pytest.mark.parametrize(
    ("fault", "waited"),
    [(fault, waited) for fault, throttled, waited in PASSING if throttled],
    ids=lambda value: str(value)[:40],
)
async def test_the_wait_that_a_busy_service_asks_for_is_the_one_that_is_known(
    service: EmbeddingService, make: Make, fault: Fault, waited: float
) -> None:
    service.behaviour.faults = [Fault(**vars(fault))]
    with pytest.raises(ThrottledError) as refused:
        await make(retry_timeout=0).embed_documents(TEXTS)
    assert (refused.value.retry_after or 0.0) == pytest.approx(waited)


async def test_retry_after_as_a_date(service: EmbeddingService, make: Make) -> None:
    service.behaviour.faults = [Fault(429, headers={"Retry-After": formatdate(time.time() + 2, usegmt=True)})]
    started = time.perf_counter()
    await make().embed_query("x")
    assert 0.5 < time.perf_counter() - started < 10


async def test_a_wait_longer_than_the_patience_is_not_begun(service: EmbeddingService, make: Make) -> None:
    service.behaviour.faults = [Fault(429, "slow down", headers={"Retry-After": "60"}, times=9)]
    started = time.perf_counter()
    with pytest.raises(ThrottledError, match=r"slow down.*asks to wait 60 s") as caught:
        await make().embed_documents(TEXTS)
    assert time.perf_counter() - started < 10
    assert caught.value.retry_after == 60
    assert "TOOLBOX_RETRY_TIMEOUT" in (caught.value.hint or "")
    assert service.stats.requests == 1


async def test_throttling_for_ever_ends_with_the_time(service: EmbeddingService, make: Make) -> None:
    service.behaviour.faults = [Fault(429, headers={"retry-after-ms": "5"}, times=10_000)]
    started = time.perf_counter()
    with pytest.raises(ThrottledError, match=r"\d attempts in"):
        await make(retry_timeout=1.0).embed_documents(TEXTS)
    assert time.perf_counter() - started < 5
    assert 4 <= service.stats.requests <= 20


async def test_no_retries_with_no_time_for_them(service: EmbeddingService, make: Make) -> None:
    service.behaviour.faults = [Fault(503)]
    with pytest.raises(ThrottledError):
        await make(retry_timeout=0.0).embed_documents(TEXTS)
    assert service.stats.requests == 1


async def test_a_lasting_500_is_put_to_the_batch_after_two_quick_retries(service: EmbeddingService, make: Make) -> None:
    service.behaviour.refuse = {"POISON": 500}
    service.behaviour.refuse_message = "Internal Server Error"
    started = time.perf_counter()
    with pytest.raises(ServiceFailedError, match="HTTP 500: Internal Server Error") as caught:
        await make().embed_documents([*TEXTS, "POISON"])
    assert isinstance(caught.value, InputRefusedError)
    assert time.perf_counter() - started < 5
    assert service.stats.requests == 3


async def test_no_answer_in_time(service: EmbeddingService, make: Make) -> None:
    service.behaviour.latency = 5
    embedder = make(request_timeout=0.1, retry_timeout=0.6)
    started = time.perf_counter()
    with pytest.raises(TimedOutError, match=r"did not answer within 0.1 s.*2 attempts") as caught:
        await embedder.embed_documents(TEXTS)
    assert time.perf_counter() - started < 4
    assert embedder.timed_out == 2
    assert "TOOLBOX_REQUEST_TIMEOUT" in (caught.value.hint or "")


async def test_a_service_that_restarts_is_waited_for(service: EmbeddingService, make: Make) -> None:
    embedder = make()
    await embedder.embed_query("x")
    service.stop()

    async def restart() -> None:
        await asyncio.sleep(0.6)
        await asyncio.to_thread(service.__enter__)

    restarting = asyncio.create_task(restart())
    np.testing.assert_array_equal(await embedder.embed_documents(TEXTS), expected(TEXTS))
    await restarting


async def test_a_connection_that_always_breaks(service: EmbeddingService, make: Make) -> None:
    service.behaviour.faults = [Fault(drop=True, times=100)]
    with pytest.raises(UnreachableError, match="broke"):
        await make(retry_timeout=0.5).embed_query("x")


async def test_cancelling_leaves_the_client_usable(service: EmbeddingService, make: Make) -> None:
    service.behaviour.latency = 3
    embedder = make()
    task = asyncio.create_task(embedder.embed_documents(TEXTS))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    service.behaviour.latency = 0
    await embedder.embed_documents(TEXTS)
