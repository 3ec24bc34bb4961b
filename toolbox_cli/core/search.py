"""Search: the question through the model of the generation that is read, never blindly the configured one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolbox_cli.domain.errors import InputRefusedError, InvalidUsageError
from toolbox_cli.domain.models import Generation, SearchResult

if TYPE_CHECKING:
    from toolbox_cli.domain.ports import Embedder
    from toolbox_cli.domain.searching import SearchFilter, SearchStore


async def search(
    store: SearchStore,
    embedder: Embedder,
    generation: Generation,
    query: str,
    where: SearchFilter,
    *,
    limit: int,
    threshold: float | None,
) -> SearchResult:
    """The nearest tools to a question. ``threshold`` is a cosine similarity; None cuts nothing.

    Raises InvalidUsageError for a question that cannot be embedded at all, EmbeddingServiceError as the embedder.
    """
    if not query.strip():
        raise InvalidUsageError("the question is empty", hint='Ask in words: toolbox search "calculate numbers"')
    try:
        vector = await embedder.embed_query(query)
    except InputRefusedError as exc:
        raise InvalidUsageError(f"the question cannot be embedded: {exc.message}", hint=exc.hint) from exc
    hits = await store.nearest(generation, vector, where, limit)
    if threshold is not None:
        hits = [hit for hit in hits if hit.similarity >= threshold]
    return SearchResult(query=query, mode="vector", model=generation.model, threshold=threshold, results=hits)
