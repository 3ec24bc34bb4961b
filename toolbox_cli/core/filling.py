"""Bring the vectors of one generation up to date: the passes, the index around them, what they have taught."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from toolbox_cli.core.batches import LongTexts, longest_text
from toolbox_cli.core.gates import loaded
from toolbox_cli.core.pipeline import PHASES_BESIDE_AN_INDEX, Pipeline, PipelineOptions, Tally
from toolbox_cli.domain.errors import InterruptedRunError, ToolboxError
from toolbox_cli.domain.models import Generation, ReindexSummary, Role
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
    #: Build the vector index anew although there is a valid one.
    rebuild_index: bool = False


class Run:
    """The passes over one generation, counted as one."""

    def __init__(self, generation: Generation, learned: Learned | None = None) -> None:
        self.generation = generation
        self.learned = learned
        self.first: Scope | None = None
        self.tallies: list[Tally] = []
        self.seconds = 0.0
        self.index_seconds = 0.0

    @property
    def embedded(self) -> int:
        return sum(tally.embedded for tally in self.tallies)

    def summary(self, *, limited: bool) -> ReindexSummary:
        embedded = self.embedded
        # Every pass asks again for what was refused before, so the last one knows who is refused now.
        failures = self.tallies[-1].failures if self.tallies else []
        selected = self.first.selected if self.first else 0
        unchanged = self.first.unchanged if self.first else 0
        if limited and self.tallies:
            selected = unchanged + self.tallies[0].handed_out
        return ReindexSummary(
            generation=self.generation.role,
            model=self.generation.model,
            selected=selected,
            embedded=embedded,
            unchanged=unchanged,
            failed=len(failures),
            failures=failures,
            seconds=round(self.seconds, 3),
            tools_per_second=round(embedded / self.seconds, 1) if self.seconds > 0 else 0.0,
            index_seconds=round(self.index_seconds, 3),
        )


async def fill(
    store: EmbeddingStore,
    embedder: Embedder,
    run: Run,
    selection: Selection,
    options: ReindexOptions,
    progress: Progress,
    stop: asyncio.Event,
) -> ToolboxError | None:
    """The passes; returns the error that ended them early."""
    how = PipelineOptions(
        concurrency=options.concurrency,
        batch_size=options.batch_size,
        limit=options.limit,
        max_rate=options.max_rate,
        max_tokens=longest_text(run.generation, run.learned),
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
            if not options.keep_index and await defers_index(store, run.generation, options, scope, pending):
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
                await pipeline.leave()
                # Waiting for others is no work.
                started = time.perf_counter() - run.seconds
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


async def complete_index(
    store: EmbeddingStore, run: Run, progress: Progress, stop: asyncio.Event, *, rebuild: bool = False
) -> ToolboxError | None:
    """Build what is missing; a build that is interrupted leaves an invalid index, which the next run replaces.

    One for a generation that is being built waits until the load is over. With ``rebuild`` a valid one is replaced.
    """
    try:
        if run.generation.role is Role.BUILDING and not loaded(await store.census(run.generation)):
            return None
        run.index_seconds = await _unless_stopped(store.complete_index(run.generation, progress, rebuild=rebuild), stop)
    except InterruptedRunError:
        return InterruptedRunError(
            "interrupted while the index was built; every embedding is kept", hint="Run it again to build the index."
        )
    except ToolboxError as exc:
        return exc
    return None


async def selected(store: EmbeddingStore, options: ReindexOptions) -> Selection:
    """The tools that were asked for; NegativeAnswerError names those that do not exist."""
    return Selection(
        everything=options.everything,
        include_inactive=options.include_inactive,
        category=options.category,
        ids=await store.resolve(options.tools) if options.tools else None,
    )


async def defers_index(
    store: EmbeddingStore, generation: Generation, options: ReindexOptions, scope: Scope, pending: int
) -> bool:
    """Whether a run touches more than a tenth of the vectors that the index holds, not of those selected."""
    if pending < DEFER_INDEX_FROM:
        return False
    selected = scope.selected
    if options.category or options.tools:
        selected = (await store.census(generation)).active
    return pending > DEFER_INDEX_ABOVE * selected


def remark(run: Run, progress: Progress) -> None:
    """Say what an operator should know of the passes besides their counts."""
    if run.tallies and run.tallies[-1].conflicts:
        number = run.tallies[-1].conflicts
        tools = "1 tool was" if number == 1 else f"{number} tools were"
        progress.note(f"{tools} edited or deleted while being embedded; the next run takes what is stale")
    cut = set().union(*(tally.truncated for tally in run.tallies))
    if cut:
        texts = "1 text was" if len(cut) == 1 else f"{len(cut)} texts were"
        limit = longest_text(run.generation, run.learned)
        progress.note(
            f"{texts} longer than the model's {limit} tokens (estimated) and cut;"
            " --long-texts refuse lists such tools as failed instead"
        )


async def _remember(store: EmbeddingStore, embedder: Embedder, run: Run, batch_before: int) -> None:
    """What the service has taught: a batch limit if it lowered ours, its speed if the run was long enough to tell."""
    embedded = run.embedded
    rate = embedded / run.seconds if embedded >= WORTH_REMEMBERING and run.seconds > 0 else None
    limit = embedder.max_batch if embedder.max_batch < batch_before else None
    if rate is not None or limit is not None:
        await store.learn(run.generation, Learned(max_batch=limit, tools_per_second=rate))
