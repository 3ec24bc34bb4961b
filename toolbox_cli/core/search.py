"""Search: the question through the model of the generation that is read, never blindly the configured one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolbox_cli.domain.errors import InputRefusedError, InvalidUsageError
from toolbox_cli.domain.models import SearchResult
from toolbox_cli.domain.searching import GenerationMovedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from toolbox_cli.domain.models import Generation
    from toolbox_cli.domain.ports import Embedder, Vectors
    from toolbox_cli.domain.searching import SearchFilter, SearchStore


#: How often a search starts again because a cutover or a roll back came between its question and its answer.
ATTEMPTS = 5


async def search(
    store: SearchStore,
    current: Callable[[], Awaitable[Generation]],
    build_embedder: Callable[[Generation], Embedder],
    query: str,
    where: SearchFilter,
    *,
    limit: int,
    threshold: float | None,
) -> SearchResult:
    """The nearest tools to a question. ``threshold`` is a cosine similarity; None cuts nothing.

    A vector of one model is never held against the column of another: where the generations have been swapped
    meanwhile, the question is embedded anew. Raises InvalidUsageError for a question that cannot be embedded at all,
    EmbeddingServiceError as the embedder.
    """
    if not query.strip():
        raise InvalidUsageError("the question is empty", hint='Ask in words: toolbox search "calculate numbers"')
    attempt = 1
    while True:
        generation = await current()
        vector = await _embedded(build_embedder(generation), query)
        try:
            hits = await store.nearest(generation, vector, where, limit)
        except GenerationMovedError:
            attempt += 1
            if attempt > ATTEMPTS:
                raise
            continue
        if threshold is not None:
            hits = [hit for hit in hits if hit.similarity >= threshold]
        return SearchResult(query=query, mode="vector", model=generation.model, threshold=threshold, results=hits)


async def _embedded(embedder: Embedder, query: str) -> Vectors:
    try:
        return await embedder.embed_query(query)
    except InputRefusedError as exc:
        raise InvalidUsageError(f"the question cannot be embedded: {exc.message}", hint=exc.hint) from exc
    finally:
        await embedder.aclose()
