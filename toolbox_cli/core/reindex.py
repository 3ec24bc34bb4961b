"""``toolbox reindex``: what has to be done, doing it, and leaving the index as it should be."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from toolbox_cli.core.batches import ASCII_CHARACTERS_A_TOKEN, LongTexts
from toolbox_cli.core.pipeline import PHASES_BESIDE_AN_INDEX, Pipeline, PipelineOptions, Tally
from toolbox_cli.domain.catalog import find_model
from toolbox_cli.domain.errors import InterruptedRunError, StateError, ToolboxError
from toolbox_cli.domain.models import Frozen, Generation, ReindexSummary
from toolbox_cli.domain.reindexing import Learned, Scope, Selection

if TYPE_CHECKING:
    from toolbox_cli.domain.ports import Embedder, Progress
    from toolbox_cli.domain.reindexing import EmbeddingStore

Result = TypeVar("Result")

#: How often the scope is read again for tools that were edited while they were embedded.
PASSES = 3
#: A run that touches more than this share of the vectors drops the index and builds it afterwards: at 50,000 × 768
#: filling and building took 16 s, filling under the index 125 s and more.
DEFER_INDEX_ABOVE = 0.1
#: Below so many tools the index costs nothing worth its absence (300 rows a second under the index).
DEFER_INDEX_FROM = 1_000
#: Runs shorter than this say nothing about the service's speed.
WORTH_REMEMBERING = 200


@dataclass(frozen=True)
class ReindexOptions:
    """What was asked for. ``tools`` are ids or names; None and empty mean no restriction."""

    concurrency: int = 10
    batch_size: int | None = None
    limit: int | None = None
    everything: bool = False
    include_inactive: bool = False
    category: str | None = None
    tools: tuple[str, ...] = ()
    max_rate: float | None = None
    long_texts: LongTexts = "truncate"
    #: Leave the vector index in place whatever is touched: slow to fill, but every search stays fast.
    keep_index: bool = False


@dataclass
class ReindexOutcome:
    """The summary, and the error that ended the run early, if one did: what was done before is kept."""

    summary: ReindexSummary
    stopped_by: ToolboxError | None = None


class ReindexPlan(Frozen):
    """What a run would do. ``seconds`` is None where the service's speed has not been measured yet."""

    generation: str
    model: str | None
    selected: int
    unchanged: int
    pending: int
    reasons: dict[str, int]
    estimated_tokens: int
    requests: int
    seconds: float | None
    defers_index: bool


class _Run:
    """The passes of one command, counted as one."""

    def __init__(self, generation: Generation) -> None:
        self.generation = generation
        self.first: Scope | None = None
        self.tallies: list[Tally] = []
        self.seconds = 0.0
        self.index_seconds = 0.0

    def summary(self, *, limited: bool) -> ReindexSummary:
        embedded = sum(tally.embedded for tally in self.tallies)
        # Every pass asks again for what was refused before, so the last one knows who is refused now.
        failures = self.tallies[-1].failures if self.tallies else []
        selected = self.first.selected if self.first else 0
        unchanged = self.first.unchanged if self.first else 0
        if limited and self.tallies:
            selected = unchanged + self.tallies[0].handed_out
        return ReindexSummary(
            generation=cast("Literal['current', 'building']", self.generation.role.value),
            selected=selected,
            embedded=embedded,
            unchanged=unchanged,
            failed=len(failures),
            failures=failures,
            seconds=round(self.seconds, 3),
            tools_per_second=round(embedded / self.seconds, 1) if self.seconds > 0 else 0.0,
            index_seconds=round(self.index_seconds, 3),
        )


async def plan_reindex(store: EmbeddingStore, generation: Generation, options: ReindexOptions) -> ReindexPlan:
    """What ``reindex_tools`` would do now; reads only, and asks the service nothing."""
    scope = await store.scope(generation, await _selection(store, options), measure=True)
    pending = min(scope.pending, options.limit or scope.pending)
    learned = await store.learned(generation)
    batch = options.batch_size or (learned.max_batch if learned else None) or 64
    rate = learned.tools_per_second if learned else None
    share = pending / scope.pending if scope.pending else 0
    return ReindexPlan(
        generation=generation.role.value,
        model=generation.model,
        selected=scope.selected,
        unchanged=scope.unchanged,
        pending=pending,
        reasons=scope.reasons(),
        estimated_tokens=round(scope.characters * share / ASCII_CHARACTERS_A_TOKEN),
        requests=-(-pending // batch),
        seconds=round(pending / rate, 1) if rate else None,
        defers_index=not options.keep_index and await _defers_index(store, generation, options, scope, pending),
    )


async def reindex_tools(
    store: EmbeddingStore,
    embedder: Embedder,
    generation: Generation,
    options: ReindexOptions,
    progress: Progress,
    stop: asyncio.Event,
) -> ReindexOutcome:
    """Bring the vectors of a generation up to date; closes the embedder.

    Tools that were edited while they were embedded are taken again, at most ``PASSES`` times: a tool that changes
    every second is left stale rather than paid for without end. ``stop`` ends the run early: answers under way are
    stored. Raises StateError for vectors of unknown origin and for a pooler that cannot hold our locks.
    """
    if generation.model is None:
        raise StateError(
            f"nothing says which model made the {generation.dimension} dimensions of this registry",
            hint="Say which one is to be used from now on: toolbox migrate --model M --dimension N.",
        )
    run = _Run(generation)
    stopped_by: ToolboxError | None = None
    try:
        await store.check_session()
        selection = await _selection(store, options)
        async with store.as_worker():
            stopped_by = await _fill(store, embedder, run, selection, options, progress, stop)
        if stopped_by is None:
            stopped_by = await _complete_index(store, run, progress, stop)
    finally:
        await embedder.aclose()
    return ReindexOutcome(run.summary(limited=options.limit is not None), stopped_by)


async def _fill(
    store: EmbeddingStore,
    embedder: Embedder,
    run: _Run,
    selection: Selection,
    options: ReindexOptions,
    progress: Progress,
    stop: asyncio.Event,
) -> ToolboxError | None:
    """The passes; returns the error that ended them early."""
    known = find_model(run.generation.model)
    how = PipelineOptions(
        concurrency=options.concurrency,
        batch_size=options.batch_size,
        limit=options.limit,
        max_rate=options.max_rate,
        max_tokens=known.max_tokens if known else None,
        long_texts=options.long_texts,
    )
    batch_before = embedder.max_batch
    started = time.perf_counter()
    try:
        # With a limit there is one pass: a second one would take other tools, beyond it.
        for _ in range(PASSES if options.limit is None else 1):
            scope = await _unless_stopped(store.scope(run.generation, selection), stop)
            run.first = run.first or scope
            pending = min(scope.pending, options.limit or scope.pending)
            if not pending:
                break
            if not options.keep_index and await _defers_index(store, run.generation, options, scope, pending):
                await _unless_stopped(store.defer_index(run.generation, progress), stop)
            if await store.beside_an_index(run.generation):
                how = replace(how, phases=PHASES_BESIDE_AN_INDEX)
            pipeline = Pipeline(store, embedder, run.generation, selection, how, progress, stop)
            run.tallies.append(pipeline.tally)
            progress.start("embedding", pending)
            try:
                await pipeline.run(scope)
            finally:
                progress.finish()
                run.seconds = time.perf_counter() - started
            if stop.is_set():
                raise _interrupted()
            if pipeline.tally.conflicts == 0:
                break
            # Forced tools were done in the first pass; only what has become stale meanwhile is left.
            selection = selection.model_copy(update={"everything": False})
        run.seconds = time.perf_counter() - started
        await _remember(store, embedder, run, batch_before)
    except ToolboxError as exc:
        return exc
    finally:
        run.seconds = run.seconds or time.perf_counter() - started
        _remark(run, progress, known.max_tokens if known else 0)
    return None


async def _unless_stopped(work: Coroutine[Any, Any, Result], stop: asyncio.Event) -> Result:
    """The result of a database call that may take long, or InterruptedRunError as soon as ``stop`` is set.

    Cancelling the call cancels the statement on the server.
    """
    task = asyncio.create_task(work)
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
    if task.cancelled() or (stop.is_set() and task.exception() is not None):
        raise _interrupted()
    return task.result()


def _interrupted() -> InterruptedRunError:
    return InterruptedRunError("interrupted; what was embedded is kept", hint="Run it again to go on.")


async def _complete_index(
    store: EmbeddingStore, run: _Run, progress: Progress, stop: asyncio.Event
) -> ToolboxError | None:
    """Build what is missing; a build that is interrupted leaves an invalid index, which the next run replaces."""
    try:
        run.index_seconds = await _unless_stopped(store.complete_index(run.generation, progress), stop)
    except InterruptedRunError:
        return InterruptedRunError(
            "interrupted while the index was built; every embedding is kept", hint="Run it again to build the index."
        )
    except ToolboxError as exc:
        return exc
    return None


async def _selection(store: EmbeddingStore, options: ReindexOptions) -> Selection:
    return Selection(
        everything=options.everything,
        include_inactive=options.include_inactive,
        category=options.category,
        ids=await store.resolve(options.tools) if options.tools else None,
    )


async def _defers_index(
    store: EmbeddingStore, generation: Generation, options: ReindexOptions, scope: Scope, pending: int
) -> bool:
    """Whether a run touches more than a tenth of the vectors that the index holds, not of those selected."""
    if pending < DEFER_INDEX_FROM:
        return False
    selected = scope.selected
    if options.category or options.tools:
        selected = (await store.census(generation)).active
    return pending > DEFER_INDEX_ABOVE * selected


def _remark(run: _Run, progress: Progress, limit: int) -> None:
    if run.tallies and run.tallies[-1].conflicts:
        number = run.tallies[-1].conflicts
        tools = "1 tool was" if number == 1 else f"{number} tools were"
        progress.note(f"{tools} edited or deleted while being embedded; the next run takes what is stale")
    cut = set().union(*(tally.truncated for tally in run.tallies))
    if cut:
        texts = "1 text was" if len(cut) == 1 else f"{len(cut)} texts were"
        progress.note(
            f"{texts} longer than the model's {limit} tokens (estimated) and cut;"
            " --long-texts refuse lists such tools as failed instead"
        )


async def _remember(store: EmbeddingStore, embedder: Embedder, run: _Run, batch_before: int) -> None:
    """What the service has taught: a batch limit if it lowered ours, its speed if the run was long enough to tell."""
    embedded = sum(tally.embedded for tally in run.tallies)
    rate = embedded / run.seconds if embedded >= WORTH_REMEMBERING and run.seconds > 0 else None
    limit = embedder.max_batch if embedder.max_batch < batch_before else None
    if rate is not None or limit is not None:
        await store.learn(run.generation, Learned(max_batch=limit, tools_per_second=rate))
