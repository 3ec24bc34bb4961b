"""``toolbox eval``: labelled questions through each mode of search."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from toolbox_cli.core.metrics import DEPTHS, interval, scores
from toolbox_cli.core.search import hybrid
from toolbox_cli.domain.errors import InputRefusedError, InvalidUsageError, NegativeAnswerError, StateError
from toolbox_cli.domain.evaluation import Evaluation, Miss
from toolbox_cli.domain.searching import SearchFilter, SearchMode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from toolbox_cli.domain.models import Generation
    from toolbox_cli.domain.ports import Embedder, Progress
    from toolbox_cli.domain.questions import Question
    from toolbox_cli.domain.searching import SearchStore

#: Questions under way at once at the service.
CONCURRENCY = 8
MISSES_KEPT = 20
_EVERYWHERE = SearchFilter()


async def evaluate(
    store: SearchStore,
    generation: Generation,
    build_embedder: Callable[[Generation], Embedder],
    questions: Sequence[Question],
    modes: Sequence[str],
    progress: Progress,
) -> Evaluation:
    """Ask every question in every mode (all that can be, unless given).

    Raises StateError for a mode whose index is not there, NegativeAnswerError when no question can be judged.
    """
    chosen = await _chosen(store, modes)
    known = await store.active_names({name for question in questions for name in question.relevant})
    judged = [question for question in questions if known.intersection(question.relevant)]
    if not judged:
        raise NegativeAnswerError(
            "none of the tools that the questions name is an active tool of this registry",
            hint="`toolbox eval --sample` goes with `toolbox import --sample`.",
        )
    vectors = await _embed(store, build_embedder(generation), judged, progress) if chosen != ["text"] else []
    progress.start("searching", len(judged))
    ranked: dict[SearchMode, list[list[str]]] = {mode: [] for mode in chosen}
    for place, question in enumerate(judged):
        for mode in chosen:
            vector = vectors[place] if vectors else ""
            ranked[mode].append(await _ask(store, generation, mode, question.query, vector))
        progress.advance(1)
    progress.finish()
    if "vector" in ranked and not any(ranked["vector"]):
        progress.note("no tool has an embedding yet, so only words can find one: `toolbox reindex`")
    relevant = [[name for name in question.relevant if name in known] for question in judged]
    return Evaluation(
        queries=len(judged),
        model=generation.model,
        modes={mode: _means(ranked[mode], relevant) for mode in chosen},
        intervals={mode: _intervals(ranked[mode], relevant) for mode in chosen},
        misses=_misses(chosen, judged, ranked, relevant),
        skipped=len(questions) - len(judged),
        unknown=sorted({name for question in questions for name in question.relevant} - known)[:10],
    )


async def _chosen(store: SearchStore, modes: Sequence[str]) -> list[SearchMode]:
    ready = await store.has_text_index()
    if not modes:
        return ["vector", "text", "hybrid"] if ready else ["vector"]
    if not ready and set(modes) != {"vector"}:
        raise StateError("there is no text index", hint="`toolbox migrate` builds it; --mode vector needs none.")
    return [cast("SearchMode", mode) for mode in dict.fromkeys(modes)]


async def _embed(
    store: SearchStore, embedder: Embedder, questions: Sequence[Question], progress: Progress
) -> list[str]:
    slots = asyncio.Semaphore(CONCURRENCY)
    progress.start("embedding", len(questions))

    async def one(question: Question) -> str:
        async with slots:
            try:
                vector = store.text_of(await embedder.embed_query(question.query))
            except InputRefusedError as exc:
                raise InvalidUsageError(
                    f"the question {question.query[:60]!r} cannot be embedded: {exc.message}", hint=exc.hint
                ) from exc
            progress.advance(1)
            return vector

    try:
        return list(await asyncio.gather(*(one(question) for question in questions)))
    finally:
        progress.finish()
        await embedder.aclose()


async def _ask(store: SearchStore, generation: Generation, mode: SearchMode, question: str, vector: str) -> list[str]:
    """The names that the mode shows, the best ten first."""
    most = max(DEPTHS)
    if mode == "text":
        coverage = await store.coverage(question, _EVERYWHERE, most, alone=True)
        return [hit.name for hit in await store.described(list(coverage))]
    if mode == "vector":
        return [hit.name for hit in (await store.find(generation, vector, _EVERYWHERE, most)).hits]
    return [hit.name for hit in (await hybrid(store, generation, vector, question, _EVERYWHERE, most))[0]][:most]


def _means(ranked: Sequence[Sequence[str]], relevant: Sequence[Sequence[str]]) -> dict[str, float]:
    judged = [scores(names, right) for names, right in zip(ranked, relevant, strict=True)]
    return {measure: round(sum(one[measure] for one in judged) / len(judged), 4) for measure in judged[0]}


def _intervals(ranked: Sequence[Sequence[str]], relevant: Sequence[Sequence[str]]) -> dict[str, tuple[float, float]]:
    judged = [scores(names, right) for names, right in zip(ranked, relevant, strict=True)]
    found = {measure: interval([one[measure] for one in judged]) for measure in judged[0]}
    return {measure: (bounds.low, bounds.high) for measure, bounds in found.items()}


def _misses(
    modes: Sequence[SearchMode],
    questions: Sequence[Question],
    ranked: dict[SearchMode, list[list[str]]],
    relevant: Sequence[Sequence[str]],
) -> list[Miss]:
    """The worst of the mode that is searched by unless another is asked for: hybrid, else the last."""
    mode = "hybrid" if "hybrid" in modes else modes[-1]
    misses = []
    for question, names, right in zip(questions, ranked[mode], relevant, strict=True):
        place = next((place for place, name in enumerate(names, start=1) if name in right), None)
        if place != 1:
            misses.append(
                Miss(query=question.query, mode=mode, relevant=list(question.relevant), found=names[:5], place=place)
            )
    misses.sort(key=lambda miss: -(miss.place or 1_000))
    return misses[:MISSES_KEPT]
