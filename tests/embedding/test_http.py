"""The client against a real service on loopback, with every fault that real services have."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.service import EmbeddingService, vectors_of

from toolbox_cli.domain.errors import EmbeddingServiceError, InputRefusedError, WrongDimensionError
from toolbox_cli.domain.settings import BUILTIN
from toolbox_cli.embedding import build_embedder
from toolbox_cli.embedding.faults import (
    UndecodableAnswerError,
)
from toolbox_cli.embedding.http import HttpEmbedder
from toolbox_cli.embedding.local import LocalEmbedder

DIMENSION = 48
TEXTS = [f"tool {i}: does thing {i}" for i in range(10)]

Make = Callable[..., HttpEmbedder]


def expected(texts: list[str]) -> Any:
    return vectors_of("m", texts, DIMENSION)


@pytest.mark.parametrize("base64", ["yes", "ignored", "always"])
@pytest.mark.parametrize("order", ["straight", "shuffled", "without_index"])
async def test_vectors_come_in_the_order_of_the_texts(
    service: EmbeddingService, make: Make, base64: Any, order: str
) -> None:
    service.behaviour.base64 = base64
    service.behaviour.shuffled = order == "shuffled"
    service.behaviour.without_index = order == "without_index"
    vectors = await make().embed_documents(TEXTS)
    assert vectors.shape == (10, DIMENSION)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected(TEXTS), atol=1e-7)
    assert service.stats.requests == 1
    assert service.stats.bodies[0] == {"model": "m", "encoding_format": "base64"}


async def test_prefixes_are_added(service: EmbeddingService, make: Make) -> None:
    embedder = make(document_prefix="search_document: ", query_prefix="search_query: ")
    await embedder.embed_documents(["a\x00b\ud800"])
    vector = await embedder.embed_query("q")
    assert vector.shape == (DIMENSION,)
    np.testing.assert_array_equal(vector, expected(["search_query: q"])[0])
    assert set(service.stats.texts) == {"search_document: ab\ufffd", "search_query: q"}


async def test_no_texts_need_no_request(service: EmbeddingService, make: Make) -> None:
    assert (await make().embed_documents([])).shape == (0, DIMENSION)
    assert service.stats.requests == 0


async def test_blank_texts_are_not_sent(service: EmbeddingService, make: Make) -> None:
    with pytest.raises(InputRefusedError, match="blank"):
        await make(document_prefix="p: ").embed_documents(["a", " \x00"])
    with pytest.raises(InputRefusedError, match="blank"):
        await make(query_prefix="p: ").embed_query("")
    assert service.stats.requests == 0


@pytest.mark.parametrize("refusal", ["refused", "garbage"])
async def test_floats_where_base64_does_not_work_and_this_is_remembered(
    service: EmbeddingService, make: Make, refusal: Any
) -> None:
    service.behaviour.base64 = refusal
    embedder = make()
    for _ in range(2):
        np.testing.assert_allclose(await embedder.embed_documents(TEXTS), expected(TEXTS), atol=1e-7)
    assert ["encoding_format" in body for body in service.stats.bodies] == [True, False, False]


async def test_a_text_about_encoding_format_does_not_end_base64(service: EmbeddingService, make: Make) -> None:
    service.behaviour.refuse = {"POISON": 400}
    service.behaviour.refuse_message = "cannot embed: POISON encoding_format"
    embedder = make()
    with pytest.raises(InputRefusedError, match="POISON"):
        await embedder.embed_documents(["POISON"])
    await embedder.embed_documents(["good"])
    assert "encoding_format" in service.stats.bodies[-1]


async def test_probe_tells_what_the_service_makes(service: EmbeddingService, make: Make) -> None:
    assert await make(dimension=1536).probe() == DIMENSION
    unknown = make(dimension=None)
    with pytest.raises(RuntimeError, match="probe"):
        _ = unknown.dimension
    assert await unknown.probe() == DIMENSION
    assert unknown.dimension == DIMENSION
    service.behaviour.answer_dimension = DIMENSION + 1
    with pytest.raises(WrongDimensionError):
        await unknown.embed_query("x")


async def test_the_client_is_persistent(service: EmbeddingService, make: Make) -> None:
    embedder = make()
    for _ in range(5):
        await embedder.embed_documents(TEXTS)
    assert service.stats.connections == 1


async def test_many_requests_at_once(service: EmbeddingService, make: Make) -> None:
    service.behaviour.latency = 0.05
    embedder = make()
    started = time.perf_counter()
    await asyncio.gather(*[embedder.embed_documents([f"t{i}"]) for i in range(96)])
    assert time.perf_counter() - started < 5
    assert 32 < service.stats.max_concurrency <= 96


# Garbage in HTTP 200


async def test_wrong_dimension_is_fatal_and_not_retried(service: EmbeddingService, make: Make) -> None:
    service.behaviour.answer_dimension = 40
    with pytest.raises(WrongDimensionError, match="40 dimensions, expected 48") as caught:
        await make().embed_documents(TEXTS)
    assert not isinstance(caught.value, InputRefusedError)
    assert "--dimension 40" in (caught.value.hint or "")
    assert service.stats.requests == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"extra_items": 1}, "11 vectors for 10 texts"),
        ({"extra_items": -1}, "9 vectors for 10 texts"),
        ({"nan_for": "tool 3"}, "not finite for text 4"),
        ({"zero_for": "tool 3"}, "zero vector for text 4"),
        ({"nan_for": "tool 3", "base64": "ignored"}, "not finite for text 4"),
    ],
)
async def test_garbage_refuses_the_batch(
    service: EmbeddingService, make: Make, change: dict[str, Any], words: str
) -> None:
    for name, value in change.items():
        setattr(service.behaviour, name, value)
    with pytest.raises(InputRefusedError, match=words):
        await make().embed_documents(TEXTS)


async def test_html_instead_of_json(service: EmbeddingService, make: Make) -> None:
    service.behaviour.answer_body = "\n<!DOCTYPE html><html>welcome</html>"
    with pytest.raises(EmbeddingServiceError, match=r"HTML page, not JSON: is the URL right\? expected …/v1/embed"):
        await make().embed_documents(TEXTS)


@pytest.mark.parametrize("body", ["", "gibberish", '{"data": [', "null"])
async def test_something_that_is_not_json(service: EmbeddingService, make: Make, body: str) -> None:
    service.behaviour.answer_body = body
    with pytest.raises(EmbeddingServiceError, match="not JSON") as caught:
        await make().embed_documents(TEXTS)
    assert not isinstance(caught.value, InputRefusedError)


async def test_json_of_another_api(service: EmbeddingService, make: Make) -> None:
    service.behaviour.answer_body = '{"embeddings": [[1.0, 2.0]]}'
    with pytest.raises(UndecodableAnswerError, match="is the URL right"):
        await make().embed_documents(TEXTS)


async def test_an_error_in_http_200(service: EmbeddingService, make: Make) -> None:
    service.behaviour.answer_body = '{"error": "Unexpected endpoint or method. (POST /v1/embedding)"}'
    with pytest.raises(EmbeddingServiceError, match="Unexpected endpoint") as caught:
        await make().embed_documents(TEXTS)
    assert not isinstance(caught.value, InputRefusedError)
    service.behaviour.answer_body = '{"error": {"message": "input is too long"}}'
    with pytest.raises(InputRefusedError, match="too long"):
        await make().embed_documents(TEXTS)


# dimensions


@pytest.mark.parametrize(
    ("model", "dimension", "sent"),
    [
        ("text-embedding-3-small", 512, True),
        ("text-embedding-3-small", 1536, False),
        ("text-embedding-nomic-embed-text-v1.5", 256, True),
        ("all-minilm", 384, False),
        ("somebody/unknown", 100, False),
        ("text-embedding-3-small", None, False),
    ],
)
async def test_dimensions_is_sent_where_the_model_takes_it(
    service: EmbeddingService, model: str, dimension: int | None, sent: bool
) -> None:
    service.behaviour.dimension = 1536
    if dimension is not None and not sent:
        service.behaviour.dimension = dimension
    embedder = build_embedder(
        model=model,
        dimension=dimension,
        document_prefix="",
        query_prefix="",
        endpoint_url=service.url,
        api_key=None,
        request_timeout=5,
        retry_timeout=5,
    )
    assert isinstance(embedder, HttpEmbedder)
    vector = await embedder.embed_query("x")
    await embedder.aclose()
    assert service.stats.bodies[0].get("dimensions") == (dimension if sent else None)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    if sent:
        assert vector.shape == (dimension,)


async def test_dimensions_ignored_or_refused(service: EmbeddingService, make: Make) -> None:
    service.behaviour.dimensions = "ignore"
    embedder = make(dimension=32, send_dimensions=True)
    with pytest.raises(WrongDimensionError, match="48 dimensions, expected 32"):
        await embedder.embed_documents(TEXTS)
    assert await embedder.probe() == 48
    service.behaviour.dimensions = "refuse"
    with pytest.raises(EmbeddingServiceError, match="matryoshka") as caught:
        await embedder.embed_documents(TEXTS)
    assert not isinstance(caught.value, InputRefusedError)
    assert "32 dimensions" in (caught.value.hint or "")


def test_the_factory_gives_the_model_in_this_process() -> None:
    embedder = build_embedder(
        model="wordllama",
        dimension=None,
        document_prefix="",
        query_prefix="",
        endpoint_url=BUILTIN,
        api_key=None,
        request_timeout=5,
        retry_timeout=5,
    )
    assert isinstance(embedder, LocalEmbedder)
    assert embedder.dimension == 256


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, toolbox_cli.embedding\n"
        "heavy = {'httpx', 'numpy', 'stamina', 'tokenizers', 'safetensors', 'wordllama', 'pybase64'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


async def test_the_service_as_a_process_of_its_own() -> None:
    script = Path(__file__).parents[1] / "support" / "service.py"
    process = subprocess.Popen(  # noqa: ASYNC220 - short, and the point of the test
        [sys.executable, str(script), "--dimension", str(DIMENSION), "--batch-limit", "4"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        embedder = HttpEmbedder(endpoint_url=f"http://127.0.0.1:{port}/v1/embeddings", model="m", dimension=None)
        np.testing.assert_array_equal(await embedder.embed_documents(TEXTS), expected(TEXTS))
        await embedder.aclose()
    finally:
        process.terminate()
        process.wait(5)
        if process.stdout is not None:
            process.stdout.close()
