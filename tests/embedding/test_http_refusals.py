"""What a service refuses: texts, batches, or everything."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.service import EmbeddingService, Fault, vectors_of

from toolbox_cli.domain.errors import ConfigurationError, EmbeddingServiceError, InputRefusedError
from toolbox_cli.embedding.faults import (
    PassingFaultError,
    UnreachableError,
)
from toolbox_cli.embedding.http import HttpEmbedder

DIMENSION = 48
TEXTS = [f"tool {i}: does thing {i}" for i in range(10)]

Make = Callable[..., HttpEmbedder]


def expected(texts: list[str]) -> Any:
    return vectors_of("m", texts, DIMENSION)


SHAPES = ["openai", "string", "flat", "detail", "detail_list", "text"]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("status", [400, 413, 422, 500])
async def test_a_refused_text_in_every_shape(service: EmbeddingService, make: Make, shape: Any, status: int) -> None:
    service.behaviour.error_shape = shape
    service.behaviour.refuse = {"POISON": status}
    service.behaviour.refuse_message = "input (602 tokens) is too large to process\x1b[31m" + "!" * 500
    embedder = make()
    with pytest.raises(InputRefusedError, match=r"input \(602 tokens\) is too large to process \[31m!") as caught:
        await embedder.embed_documents([*TEXTS, "POISON" * 1000])
    assert len(caught.value.message) <= 320
    assert "POISON" not in caught.value.message
    assert caught.value.message.isprintable()
    assert service.stats.requests == 1
    assert embedder.max_batch == 64


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("status", [400, 413, 422, 500])
async def test_the_batch_limit_is_learned(service: EmbeddingService, make: Make, shape: Any, status: int) -> None:
    service.behaviour.batch_limit = 10
    service.behaviour.batch_limit_status = status
    service.behaviour.error_shape = shape
    texts = [f"text {i}" for i in range(70)]
    embedder = make()
    np.testing.assert_array_equal(await embedder.embed_documents(texts), expected(texts))
    assert embedder.max_batch == 8
    sent = service.stats.requests
    await embedder.embed_documents(texts[:64])
    assert service.stats.requests == sent + 8
    assert service.stats.embedded == 70 + 64


@pytest.mark.parametrize(
    "message",
    [
        "List should have at most 2048 items after validation, not 3000",
        "[] is too long: array too long. Expected an array with maximum length 2048, but got 3000 instead.",
        "batch size is invalid, it should not be larger than 10.: input.contents",
        "Too many inputs in request",
        "The batch size limit is 1000. Your batch size is 1500",
        "total number of texts must be at most 96",
        "at most 100 requests can be in one batch",
    ],
)
async def test_the_words_of_known_batch_limits(service: EmbeddingService, make: Make, message: str) -> None:
    service.behaviour.batch_limit = 32
    service.behaviour.batch_limit_status = 400
    service.behaviour.batch_limit_message = message
    embedder = make()
    await embedder.embed_documents([f"{i}" for i in range(64)])
    assert embedder.max_batch == 32


async def test_a_proven_batch_size_is_not_unlearned(service: EmbeddingService, make: Make) -> None:
    embedder = make(max_batch=8)
    await embedder.embed_documents(TEXTS[:8])
    service.behaviour.refuse = {"POISON": 413}
    with pytest.raises(InputRefusedError):
        await embedder.embed_documents([*TEXTS[:7], "POISON"])
    assert embedder.max_batch == 8


async def test_a_single_text_refused_for_its_batch(service: EmbeddingService, make: Make) -> None:
    service.behaviour.batch_limit = 0
    embedder = make(max_batch=4)
    with pytest.raises(InputRefusedError, match="maximum allowed batch size 0"):
        await embedder.embed_documents(TEXTS)
    assert embedder.max_batch == 1
    assert service.stats.requests == 3


async def test_a_text_that_is_too_long(service: EmbeddingService, make: Make) -> None:
    service.behaviour.max_chars = 100
    embedder = make()
    with pytest.raises(InputRefusedError, match="maximum context length is 100 tokens"):
        await embedder.embed_documents([*TEXTS, "x" * 101])
    assert embedder.max_batch == 64


async def test_a_physical_batch_size_is_no_batch_limit(service: EmbeddingService, make: Make) -> None:
    service.behaviour.refuse = {"POISON": 500}
    service.behaviour.refuse_message = (
        "input (602 tokens) is too large to process. increase the physical batch size (current batch size: 512)"
    )
    embedder = make()
    with pytest.raises(InputRefusedError):
        await embedder.embed_documents([*TEXTS, "POISON"])
    assert embedder.max_batch == 64


# The service cannot be used


@pytest.mark.parametrize(("sent", "words"), [(None, "No key was sent"), ("sk-wrong-key-0123", "not accepted")])
async def test_401_names_the_variable_and_never_the_key(
    service: EmbeddingService, make: Make, sent: str | None, words: str
) -> None:
    service.behaviour.api_key = "sk-right"
    service.behaviour.echo_key = True
    with pytest.raises(EmbeddingServiceError, match="HTTP 401") as caught:
        await make(api_key=sent).embed_documents(TEXTS)
    assert words in (caught.value.hint or "")
    assert "EMBEDDING_API_KEY" in (caught.value.hint or "")
    assert "sk-wrong" not in f"{caught.value!r}{caught.value.hint}"
    assert service.stats.requests == 1


async def test_the_key_is_sent(service: EmbeddingService, make: Make) -> None:
    service.behaviour.api_key = "sk-right"
    await make(api_key=" sk-right\n").embed_documents(TEXTS)
    assert service.stats.headers[0]["authorization"] == "Bearer sk-right"
    assert service.stats.headers[0]["user-agent"].startswith("toolbox-cli/")


async def test_a_key_that_no_header_can_carry(make: Make) -> None:
    with pytest.raises(ConfigurationError, match="no HTTP header") as caught:
        make(api_key="sk-secrét")
    assert "secr" not in caught.value.message


FATAL = [
    (Fault(403, "forbidden", shape="html"), "HTTP 403: an HTML page", "EMBEDDING_API_KEY"),
    (Fault(400, "API key not valid. Please pass a valid API key."), "HTTP 400", "EMBEDDING_API_KEY"),
    (Fault(404, "Not Found", shape="detail"), "HTTP 404: Not Found", "URL"),
    (Fault(404, 'model "m" not found, try pulling it first'), "try pulling", "EMBEDDING_MODEL"),
    (Fault(400, "No models loaded. Please load a model"), "No models loaded", "EMBEDDING_MODEL"),
    (Fault(405, "Method Not Allowed", shape="flat"), "HTTP 405", "EMBEDDING_ENDPOINT_URL"),
    (Fault(402, "payment required"), "HTTP 402", "quota"),
    (Fault(501, "This server does not support embeddings."), "HTTP 501", "URL"),
    (Fault(429, "You exceeded", code="insufficient_quota"), "HTTP 429", "quota is used up"),
    (Fault(301, "", headers={"location": "http://x/y?token=1"}), "a redirect to http://x/y$", "URL"),
]


@pytest.mark.parametrize(("fault", "words", "hint"), FATAL, ids=lambda value: str(value)[:40])
async def test_faults_that_no_retry_mends(
    service: EmbeddingService, make: Make, fault: Fault, words: str, hint: str
) -> None:
    service.behaviour.faults = [Fault(**vars(fault) | {"times": 100})]
    with pytest.raises(EmbeddingServiceError, match=words) as caught:
        await make().embed_documents(TEXTS)
    assert not isinstance(caught.value, InputRefusedError | PassingFaultError)
    assert caught.value.exit_code == 6
    assert hint in (caught.value.hint or "")
    assert service.stats.requests == 1


async def test_a_model_that_the_service_does_not_know(service: EmbeddingService, make: Make) -> None:
    service.behaviour.model = "other"
    with pytest.raises(EmbeddingServiceError, match="`m` does not exist"):
        await make().embed_documents(TEXTS)


async def test_the_query_of_the_url_is_sent_and_never_shown(service: EmbeddingService, make: Make) -> None:
    embedder = make(endpoint_url=f"{service.url}?token=hush")
    await embedder.embed_query("x")
    service.behaviour.faults = [Fault(404, "gone")]
    with pytest.raises(EmbeddingServiceError) as caught:
        await embedder.embed_query("x")
    assert service.url in caught.value.message
    assert "hush" not in f"{caught.value!r}{caught.value.hint}"


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (
            "http://127.0.0.1:{port}/v1/embeddings?key=hush",
            r"http://127\.0\.0\.1:\d+/v1/embeddings: connection refused",
        ),
        ("http://nowhere.invalid/v1/embeddings", "the host name is not known"),
    ],
)
async def test_no_service_is_told_soon(make: Make, url: str, words: str) -> None:
    started = time.perf_counter()
    with pytest.raises(UnreachableError, match=words) as caught:
        await make(endpoint_url=url.format(port=closed_port())).embed_query("x")
    assert time.perf_counter() - started < 10
    assert "hush" not in f"{caught.value!r}{caught.value.hint}"
    assert "Is the service running?" in (caught.value.hint or "")


async def test_tls_where_none_is_spoken(service: EmbeddingService, make: Make) -> None:
    with pytest.raises(EmbeddingServiceError, match="no TLS connection") as caught:
        await make(endpoint_url=service.url.replace("http:", "https:")).embed_query("x")
    assert "http, not https" in (caught.value.hint or "")


async def test_a_url_that_cannot_be_requested(make: Make) -> None:
    with pytest.raises(ConfigurationError, match="no URL"):
        await make(endpoint_url="ftp://x/y").embed_query("x")
