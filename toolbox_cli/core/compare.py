"""``toolbox compare``: two generations on the same questions, before anybody has to live with the new one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from toolbox_cli.core.comparison import Side, compared
from toolbox_cli.core.geometry import threshold_of
from toolbox_cli.core.questions import made_from
from toolbox_cli.core.recall import share_found
from toolbox_cli.core.service import at_its_service
from toolbox_cli.domain.errors import InputRefusedError, InvalidUsageError, StateError
from toolbox_cli.domain.models import Generation, Role
from toolbox_cli.domain.searching import SearchFilter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from toolbox_cli.core.reindex import BuildEmbedder
    from toolbox_cli.domain.comparison import Comparison
    from toolbox_cli.domain.ports import Embedder, Progress, Vectors
    from toolbox_cli.domain.questions import Question
    from toolbox_cli.domain.searching import QualityStore
    from toolbox_cli.domain.settings import Settings
    from toolbox_cli.domain.verification import Inspector

#: Questions that are made from tools where no file gives any.
MADE_QUESTIONS = 200
#: Results that are looked at for the thresholds and the distribution: more than are shown, so that the tail is there.
DEPTH = 50
#: Questions whose exact neighbours are looked up: each reads every vector.
EXACT_QUESTIONS = 50
#: Questions under way at once at a service.
CONCURRENCY = 8


@dataclass(frozen=True)
class CompareOptions:
    """``limit`` results count; ``thresholds`` are cosine similarities of the old model."""

    limit: int = 10
    thresholds: tuple[float, ...] = ()


async def compare(
    store: QualityStore,
    inspector: Inspector,
    generations: Mapping[Role, Generation],
    build_embedder: BuildEmbedder,
    settings: Settings,
    questions: Sequence[Question] | None,
    options: CompareOptions,
    progress: Progress,
) -> Comparison:
    """Ask both the same. ``questions`` None makes them from the tools' own texts.

    Raises StateError where there are not two generations, InvalidUsageError for a question that a service refuses,
    EmbeddingServiceError when one of the two services cannot be used.
    """
    old, new = _pair(generations)
    source = "a file"
    if questions is None:
        source = "the tools' own texts"
        questions = made_from(await store.sample_tools(new, MADE_QUESTIONS))
    if not questions:
        raise StateError(
            "no tool has one of the newer embeddings yet: there is none to make a question from",
            hint="`toolbox reindex` makes them; or give questions: --queries FILE.",
        )
    sides: list[Side] = []
    for generation in (old, new):
        embedder = build_embedder(at_its_service(generation, settings), None)
        try:
            side = await _ask(store, embedder, generation, questions, options.limit, progress)
            side.suggested_threshold = await threshold_of(inspector, generation)
            sides.append(side)
        finally:
            await embedder.aclose()
    return compared(sides[0], sides[1], questions, source, limit=options.limit, thresholds=options.thresholds)


def _pair(generations: Mapping[Role, Generation]) -> tuple[Generation, Generation]:
    current = generations[Role.CURRENT]
    if Role.BUILDING in generations:
        return current, generations[Role.BUILDING]
    if Role.PREVIOUS in generations:
        return generations[Role.PREVIOUS], current
    raise StateError(
        "there is only one generation: nothing to compare it with",
        hint="Build a second one: `toolbox migrate --online --model M --dimension N`, then `toolbox reindex`.",
    )


async def _ask(
    store: QualityStore,
    embedder: Embedder,
    generation: Generation,
    questions: Sequence[Question],
    limit: int,
    progress: Progress,
) -> Side:
    vectors, embedding_seconds = await _embed(embedder, generation, questions, progress)
    side = Side(generation, [], embedding_seconds, [])
    progress.start(f"searching {generation.role.value}", len(questions))
    for vector in vectors:
        started = time.perf_counter()
        side.answers.append(await store.nearest(generation, vector, SearchFilter(), max(limit, DEPTH)))
        side.database_seconds.append(time.perf_counter() - started)
        progress.advance(1)
    progress.finish()
    if await store.has_index(generation):
        side.index_recall = await _index_recall(store, generation, vectors[:EXACT_QUESTIONS], limit)
    return side


async def _embed(
    embedder: Embedder, generation: Generation, questions: Sequence[Question], progress: Progress
) -> tuple[list[Vectors], list[float]]:
    """The questions' vectors, and the seconds that each took."""
    slots = asyncio.Semaphore(CONCURRENCY)
    progress.start(f"embedding for {generation.role.value}", len(questions))

    async def one(question: Question) -> tuple[Vectors, float]:
        async with slots:
            started = time.perf_counter()
            try:
                vector = await embedder.embed_query(question.query)
            except InputRefusedError as exc:
                raise InvalidUsageError(
                    f"the question {question.query[:60]!r} cannot be embedded: {exc.message}", hint=exc.hint
                ) from exc
            progress.advance(1)
            return vector, time.perf_counter() - started

    # The first question pays for loading or connecting.
    await one(questions[0])
    found = await asyncio.gather(*(one(question) for question in questions))
    progress.finish()
    return [vector for vector, _ in found], [seconds for _, seconds in found]


async def _index_recall(store: QualityStore, generation: Generation, vectors: Sequence[Vectors], limit: int) -> float:
    shares = []
    for vector in vectors:
        text = store.text_of(vector)
        found = await store.by_index(generation, text, limit)
        shares.append(share_found(found, await store.exact(generation, text, limit)))
    return round(sum(shares) / len(shares), 4)
