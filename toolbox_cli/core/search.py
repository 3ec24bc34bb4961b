"""Search: by meaning, by words, or by both; with the model of the generation that is read, never the configured one."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from toolbox_cli.core.fusion import DEPTH, fuse
from toolbox_cli.domain.errors import InputRefusedError, InvalidUsageError, StateError
from toolbox_cli.domain.models import Explanation, SearchHit, SearchResult
from toolbox_cli.domain.searching import Found, GenerationMovedError, SearchFilter, SearchMode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from toolbox_cli.domain.models import Generation, Tool
    from toolbox_cli.domain.ports import Embedder
    from toolbox_cli.domain.searching import SearchStore

Result = TypeVar("Result")

#: How often a search starts again because a cutover or a roll back came between its question and its answer.
ATTEMPTS = 5


@dataclass(frozen=True)
class SearchRequest:
    """What is asked. ``mode`` None is hybrid where the text index is there, else vector. ``threshold`` is a cosine."""

    query: str
    where: SearchFilter = field(default_factory=SearchFilter)
    limit: int = 5
    threshold: float | None = None
    mode: SearchMode | None = None


@dataclass
class _Clock:
    """Where the time went, in seconds."""

    started: float = field(default_factory=time.perf_counter)
    embedding: float = 0.0
    database: float = 0.0


@dataclass(frozen=True)
class _Answer:
    hits: list[SearchHit]
    generation: Generation | None
    found: Found


async def search(
    store: SearchStore,
    current: Callable[[], Awaitable[Generation]],
    build_embedder: Callable[[Generation], Embedder],
    request: SearchRequest,
) -> SearchResult:
    """The tools that answer a question best.

    A vector of one model is never held against the column of another: where the generations have been swapped
    meanwhile, the question is embedded anew. Raises InvalidUsageError for a question that cannot be embedded at all,
    StateError for a mode whose index is not there, EmbeddingServiceError as the embedder.
    """
    if not request.query.strip():
        raise InvalidUsageError("the question is empty", hint='Ask in words: toolbox search "calculate numbers"')
    mode = await _mode(store, request)
    clock = _Clock()
    if mode == "text":
        answer = await _by_words(store, request, clock)
    else:
        answer = await _by_meaning(store, current, build_embedder, request, mode, clock)
    hits = [hit for hit in answer.hits if _passes(hit, request.threshold)][: request.limit]
    generation = answer.generation
    return SearchResult(
        query=request.query,
        mode=mode,
        model=generation.model if generation else None,
        threshold=request.threshold,
        results=hits,
        reason=None if hits else await _why_nothing(store, answer, request, mode),
        explanation=_explanation(answer, mode, clock),
    )


async def similar(
    store: SearchStore,
    current: Callable[[], Awaitable[Generation]],
    tool: Tool,
    *,
    limit: int,
    threshold: float | None,
) -> SearchResult:
    """The tools whose stored vectors are nearest to a tool's own; needs no service. StateError when it has none."""
    clock = _Clock()

    async def ask(generation: Generation) -> Found:
        vector = await store.stored_vector(generation, tool.id)
        if vector is None:
            raise StateError(f"{tool.name} has no embedding yet", hint="`toolbox reindex` embeds what is missing.")
        return await store.find(generation, vector, SearchFilter(), limit + 1)

    generation, found = await _of_one_generation(current, ask)
    clock.database = time.perf_counter() - clock.started
    others = [hit for hit in found.hits if hit.id != tool.id]
    hits = [hit for hit in others if _passes(hit, threshold)][:limit]
    answer = _Answer(others, generation, found)
    request = SearchRequest(tool.name, threshold=threshold)
    return SearchResult(
        query=tool.name,
        mode="vector",
        model=generation.model,
        threshold=threshold,
        results=hits,
        reason=None if hits else await _why_nothing(store, answer, request, "vector"),
        explanation=_explanation(answer, "vector", clock),
    )


async def _mode(store: SearchStore, request: SearchRequest) -> SearchMode:
    if request.mode == "vector":
        return "vector"
    ready = await store.has_text_index()
    if request.mode is None:
        return "hybrid" if ready else "vector"
    if not ready:
        raise StateError(
            f"--mode {request.mode} needs the text index, which is not there", hint="`toolbox migrate` builds it."
        )
    if request.mode == "text" and request.threshold is not None:
        raise InvalidUsageError(
            "--threshold is a similarity of vectors, which --mode text does not look at",
            hint="Leave it out, or search with --mode hybrid or vector.",
        )
    return request.mode


async def _by_words(store: SearchStore, request: SearchRequest, clock: _Clock) -> _Answer:
    coverage = await store.coverage(request.query, request.where, request.limit, alone=True)
    hits = await store.described(list(coverage))
    clock.database = time.perf_counter() - clock.started
    words = {tool_id: round(share, 4) for tool_id, share in coverage.items()}
    scored = [hit.model_copy(update={"score": words[hit.id], "coverage": words[hit.id]}) for hit in hits]
    return _Answer(scored, None, Found(scored, "text index", len(coverage), None))


async def _by_meaning(
    store: SearchStore,
    current: Callable[[], Awaitable[Generation]],
    build_embedder: Callable[[Generation], Embedder],
    request: SearchRequest,
    mode: SearchMode,
    clock: _Clock,
) -> _Answer:
    async def ask(generation: Generation) -> tuple[list[SearchHit], Found]:
        # Loading the client takes longer than many a service does to answer: it counts as this program's time.
        embedder = build_embedder(generation)
        started = time.perf_counter()
        vector = await _embedded(store, embedder, request.query)
        embedded = time.perf_counter()
        if mode == "hybrid":
            hits, found = await hybrid(store, generation, vector, request.query, request.where, request.limit)
        else:
            found = await store.find(generation, vector, request.where, request.limit)
            hits = found.hits
        clock.embedding, clock.database = embedded - started, time.perf_counter() - embedded
        return hits, found

    generation, (hits, found) = await _of_one_generation(current, ask)
    return _Answer(hits, generation, found)


async def _of_one_generation(
    current: Callable[[], Awaitable[Generation]], ask: Callable[[Generation], Awaitable[Result]]
) -> tuple[Generation, Result]:
    """Ask again when a swap of the generations has come between the question and its answer."""
    for _ in range(ATTEMPTS - 1):
        generation = await current()
        with suppress(GenerationMovedError):
            return generation, await ask(generation)
    generation = await current()
    return generation, await ask(generation)


async def hybrid(
    store: SearchStore, generation: Generation, vector: str, question: str, where: SearchFilter, limit: int
) -> tuple[list[SearchHit], Found]:
    """Candidates of both kinds, each measured by both, best first; more than ``limit`` of them."""
    depth = max(DEPTH + 1, limit)
    found = await store.find(generation, vector, where, depth)
    near = [hit.id for hit in found.hits]
    coverage = await store.coverage(question, where, depth, near)
    others = [tool_id for tool_id in coverage if tool_id not in set(near)]
    return fuse(found.hits, await store.measured(generation, vector, others), coverage), found


async def _embedded(store: SearchStore, embedder: Embedder, query: str) -> str:
    try:
        return store.text_of(await embedder.embed_query(query))
    except InputRefusedError as exc:
        raise InvalidUsageError(f"the question cannot be embedded: {exc.message}", hint=exc.hint) from exc
    finally:
        await embedder.aclose()


def _passes(hit: SearchHit, threshold: float | None) -> bool:
    return threshold is None or (hit.similarity is not None and hit.similarity >= threshold)


async def _why_nothing(store: SearchStore, answer: _Answer, request: SearchRequest, mode: SearchMode) -> str:
    where = request.where
    if where.category is not None:
        known = await store.categories(include_inactive=where.include_inactive)
        if where.category not in known:
            active = "" if where.include_inactive else "active "
            return f"no {active}tool has category {where.category!r}{_meant(where.category, known)}"
    filters = [f"category {where.category!r}"] if where.category is not None else []
    filters += [f"tag {tag!r}" for tag in where.tags]
    among = f" with {' and '.join(filters)}" if filters else ""
    measured = [hit for hit in answer.hits if hit.similarity is not None]
    nearest = max(measured, key=lambda hit: hit.cosine, default=None)
    if request.threshold is not None and nearest is not None:
        return (
            f"no tool{among} is at least {request.threshold:g} similar: the nearest, {nearest.name}, is"
            f" {nearest.similarity:.3f}"
        )
    if mode == "text":
        return (
            f"no active tool{among} has one of the words (small ones like «of» do not count): --mode vector looks for"
            " the meaning"
        )
    if filters:
        return f"no active tool{among} has an embedding, if there is one at all: `toolbox list` shows the tools"
    return (
        "no active tool has an embedding: `toolbox list` shows the tools, `toolbox status` how many have an embedding"
    )


def _meant(category: str, known: list[str]) -> str:
    """What may have been meant by a category that is not there, as the rest of a sentence."""
    from difflib import get_close_matches

    close = get_close_matches(category.casefold(), known, n=1)
    return f"; there is {close[0]!r}" if close else "; `toolbox list` shows the tools with theirs"


def _explanation(answer: _Answer, mode: str, clock: _Clock) -> Explanation:
    generation, found = answer.generation, answer.found
    index = None
    if generation is not None and found.path == "index":
        index = generation.role.index_name
    return Explanation(
        mode=mode,
        model=generation.model if generation else None,
        path=found.path,
        index=index,
        candidates=found.candidates,
        ef_search=found.ef_search,
        embedding_seconds=round(clock.embedding, 4),
        database_seconds=round(clock.database, 4),
        total_seconds=round(time.perf_counter() - clock.started, 4),
    )
