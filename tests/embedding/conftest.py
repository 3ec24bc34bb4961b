"""An embedding service on loopback, and clients of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from support.service import Behaviour, EmbeddingService

from toolbox_cli.embedding.http import HttpEmbedder

DIMENSION = 48


@pytest.fixture
def service() -> Iterator[EmbeddingService]:
    with EmbeddingService(Behaviour(dimension=DIMENSION)) as running:
        yield running


@pytest.fixture
async def make(service: EmbeddingService) -> AsyncIterator[Any]:
    made: list[HttpEmbedder] = []

    def build(**changes: Any) -> HttpEmbedder:
        given: dict[str, Any] = {
            "endpoint_url": service.url,
            "model": "m",
            "dimension": DIMENSION,
            "request_timeout": 5.0,
            "retry_timeout": 5.0,
        }
        made.append(HttpEmbedder(**(given | changes)))
        return made[-1]

    yield build
    for embedder in made:
        await embedder.aclose()
