"""Re-embedding: a reader claims ranges of ids, bounded workers embed, one writer stores.

Every queue between them is bounded, so memory does not grow with the registry. What is done is recorded by the data
itself (a vector with a matching fingerprint), so running the command again *is* the resume.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast

from toolbox_cli.domain.errors import EmbeddingServiceError, InputRefusedError, StateError, ToolboxError
from toolbox_cli.domain.models import Generation, PendingTool, ReindexSummary, ToolFailure
from toolbox_cli.domain.reindexing import Selection

if TYPE_CHECKING:
    from toolbox_cli.domain.ports import Embedder, Progress, Vectors
    from toolbox_cli.domain.reindexing import EmbeddingStore, Scope

#: Rows a commit: writes of 500 ran at 1.5 × the rows per second of writes of 64, and nothing is gained above 2,000.
ROWS_A_COMMIT = 500
#: Single texts refused, with none accepted, after which the service is asked whether it accepts anything at all.
SUSPICIOUS_REFUSALS = 8
#: How often a range is read again for tools that were edited between reading and writing.
PASSES = 3


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


@dataclass
class _Range:
    """A claimed range of ids: done when every tool of it was written, refused or given up."""

    number: int
    open_tools: int = 0


@dataclass
class _Run:
    """What one run has done so far."""

    embedded: int = 0
    failures: list[ToolFailure] = field(default_factory=list)
    conflicts: int = 0
    accepted: int = 0
    handed_out: int = 0


@dataclass
class ReindexOutcome:
    """The summary, and the error that ended the run early, if one did: what was done before is kept."""

    summary: ReindexSummary
    stopped_by: ToolboxError | None = None


class Reindexer:
    """One run over one generation."""

    def __init__(
        self,
        store: EmbeddingStore,
        embedder: Embedder,
        generation: Generation,
        selection: Selection,
        options: ReindexOptions,
        progress: Progress,
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._generation = generation
        self._selection = selection
        self._options = options
        self._progress = progress
        self._run = _Run()
        self._semaphore = asyncio.Semaphore(options.concurrency)
        self._results: asyncio.Queue[tuple[_Range, list[PendingTool], Vectors | None]] = asyncio.Queue(
            maxsize=max(4, 2 * options.concurrency)
        )
        # psycopg runs one statement at a time on a session: claims, writes and releases take turns.
        self._writing = asyncio.Lock()

    async def run(self, scope: Scope) -> ReindexOutcome:
        """Embed what the scope found pending. Raises nothing of the service: see ``ReindexOutcome.stopped_by``."""
        started = time.perf_counter()
        stopped_by: ToolboxError | None = None
        self._progress.start("embedding", min(scope.pending, self._options.limit or scope.pending))
        try:
            await self._pipeline([part.range for part in scope.ranges if part.pending])
        except ToolboxError as exc:
            stopped_by = exc
        finally:
            self._progress.finish()
        seconds = time.perf_counter() - started
        return ReindexOutcome(self._summary(scope, seconds), stopped_by)

    @property
    def conflicts(self) -> int:
        """Tools whose text was edited between reading and writing: still stale."""
        return self._run.conflicts

    def _summary(self, scope: Scope, seconds: float) -> ReindexSummary:
        run = self._run
        return ReindexSummary(
            generation=cast("Literal['current', 'building']", self._generation.role.value),
            selected=scope.selected if self._options.limit is None else scope.unchanged + run.handed_out,
            embedded=run.embedded,
            unchanged=scope.unchanged,
            failed=len(run.failures),
            failures=run.failures,
            seconds=round(seconds, 3),
            tools_per_second=round(run.embedded / seconds, 1) if seconds > 0 else 0.0,
            index_seconds=0.0,
        )

    async def _pipeline(self, ranges: Sequence[int]) -> None:
        writer = asyncio.create_task(self._write_results())
        producer = asyncio.create_task(self._produce(ranges))
        try:
            # A writer that ends early has failed: nobody would empty the queue any more.
            await asyncio.wait({writer, producer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            producer.cancel()
            await asyncio.wait({producer})
            # Whatever was answered is stored, even when something else has failed or the run is interrupted.
            if not writer.done():
                await self._results.put((_END, [], None))
            await writer
        if not producer.cancelled():
            producer.result()

    async def _produce(self, ranges: Sequence[int]) -> None:
        """Read and embed until nothing is left. The first error comes out as itself: one message, not a group."""
        try:
            async with asyncio.TaskGroup() as group:
                await self._read(ranges, group)
        except ExceptionGroup as errors:
            first: BaseException | None = errors.subgroup(ToolboxError)
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            if first is None:
                raise
            raise first from None

    async def _read(self, ranges: Sequence[int], group: asyncio.TaskGroup) -> None:
        """Claim ranges until none is left; those of other live workers are looked at again until they are free."""
        waiting = list(ranges)
        while waiting and not self._exhausted():
            held_by_others: list[int] = []
            for number in waiting:
                if self._exhausted():
                    return
                async with self._writing:
                    claimed = await self._store.claim(number)
                if not claimed:
                    held_by_others.append(number)
                    continue
                await self._read_range(_Range(number), group)
            waiting = held_by_others
            if waiting:
                await asyncio.sleep(0.25)

    async def _read_range(self, claimed: _Range, group: asyncio.TaskGroup) -> None:
        tools = await self._store.pending(self._generation, self._selection, claimed.number)
        if self._options.limit is not None:
            tools = tools[: self._options.limit - self._run.handed_out]
        self._run.handed_out += len(tools)
        claimed.open_tools = len(tools)
        for batch in self._batches(tools):
            await self._semaphore.acquire()
            group.create_task(self._embed(claimed, batch))
        if not tools:
            await self._results.put((claimed, [], None))

    def _exhausted(self) -> bool:
        return self._options.limit is not None and self._run.handed_out >= self._options.limit

    def _batches(self, tools: Sequence[PendingTool]) -> list[list[PendingTool]]:
        """Batches of similar size; tools that were refused before go one by one, so that they hold up nobody."""
        size = min(self._options.batch_size or self._embedder.max_batch, self._embedder.max_batch)
        clean = [tool for tool in tools if not tool.failed_before]
        batches = [clean[start : start + size] for start in range(0, len(clean), size)]
        return batches + [[tool] for tool in tools if tool.failed_before]

    async def _embed(self, claimed: _Range, batch: list[PendingTool]) -> None:
        try:
            await self._embed_or_halve(claimed, batch)
        finally:
            self._semaphore.release()

    async def _embed_or_halve(self, claimed: _Range, batch: list[PendingTool]) -> None:
        """One refused text must not take its whole batch along: halve until it stands alone."""
        try:
            vectors = await self._embedder.embed_documents([tool.text for tool in batch])
        except InputRefusedError as exc:
            if len(batch) > 1:
                middle = len(batch) // 2
                await self._embed_or_halve(claimed, batch[:middle])
                await self._embed_or_halve(claimed, batch[middle:])
                return
            await self._refused(claimed, batch[0], exc)
            return
        self._run.accepted += len(batch)
        await self._results.put((claimed, batch, vectors))

    async def _refused(self, claimed: _Range, tool: PendingTool, reason: InputRefusedError) -> None:
        self._run.failures.append(ToolFailure(id=tool.id, name=tool.name, error=reason.message))
        if self._run.accepted == 0 and len(self._run.failures) == SUSPICIOUS_REFUSALS:
            try:
                await self._embedder.embed_query("a tool that adds two numbers")
            except InputRefusedError as exc:
                raise EmbeddingServiceError(
                    f"the embedding service refuses every text: {exc.message}", hint=exc.hint
                ) from exc
        async with self._writing:
            await self._store.record_failure(self._generation, tool, reason.message)
        await self._results.put((claimed, [tool], None))

    async def _write_results(self) -> None:
        """Join answers into commits of about ROWS_A_COMMIT rows while the next requests are under way."""
        ended = False
        while not ended:
            collected: list[tuple[_Range, list[PendingTool], Vectors | None]] = []
            rows = 0
            while rows < ROWS_A_COMMIT:
                if collected and self._results.empty():
                    break
                item = await self._results.get()
                if item[0] is _END:
                    ended = True
                    break
                collected.append(item)
                rows += len(item[1])
            async with self._writing:
                await self._store_collected(collected)

    async def _store_collected(self, collected: list[tuple[_Range, list[PendingTool], Vectors | None]]) -> None:
        import numpy as np

        answered = [(tools, vectors) for _, tools, vectors in collected if vectors is not None]
        if answered:
            tools = [tool for batch, _ in answered for tool in batch]
            written = await self._store.write(
                self._generation, tools, np.concatenate([vectors for _, vectors in answered])
            )
            self._run.embedded += written
            self._run.conflicts += len(tools) - written
        self._progress.advance(sum(len(tools) for _, tools, _ in collected))
        for claimed, tools, _ in collected:
            claimed.open_tools -= len(tools)
            if claimed.open_tools == 0:
                await self._store.release(claimed.number)


_END = _Range(-1)


async def reindex_tools(
    store: EmbeddingStore,
    embedder: Embedder,
    generation: Generation,
    options: ReindexOptions,
    progress: Progress,
) -> ReindexOutcome:
    """Bring the vectors of a generation up to date; holds the registry's shared lock meanwhile, closes the embedder.

    Tools that were edited while they were embedded are taken again, at most ``PASSES`` times: a tool that changes
    every second is left stale rather than paid for without end. Raises StateError for vectors of unknown origin.
    """
    if generation.model is None:
        raise StateError(
            f"nothing says which model made the {generation.dimension} dimensions of this registry",
            hint="Say which one is to be used from now on: toolbox migrate --model M --dimension N.",
        )
    selection = Selection(
        everything=options.everything,
        include_inactive=options.include_inactive,
        category=options.category,
        ids=await store.resolve(options.tools) if options.tools else None,
    )
    try:
        async with store.shared_lock():
            first = Reindexer(store, embedder, generation, selection, options, progress)
            total = await first.run(await store.scope(generation, selection))
            # Forced tools were done in the first pass; only what has become stale meanwhile is left.
            selection = selection.model_copy(update={"everything": False})
            conflicts, passes = first.conflicts, 1
            while conflicts and total.stopped_by is None and passes < PASSES:
                again = Reindexer(store, embedder, generation, selection, options, progress)
                total = _added(total, await again.run(await store.scope(generation, selection)))
                conflicts, passes = again.conflicts, passes + 1
    finally:
        await embedder.aclose()
    return total


def _added(first: ReindexOutcome, second: ReindexOutcome) -> ReindexOutcome:
    """Two passes as one run: the scope is the first's, what was done is the sum."""
    seconds = first.summary.seconds + second.summary.seconds
    embedded = first.summary.embedded + second.summary.embedded
    failures = {failure.id: failure for failure in (*first.summary.failures, *second.summary.failures)}
    summary = first.summary.model_copy(
        update={
            "embedded": embedded,
            "failures": list(failures.values()),
            "failed": len(failures),
            "seconds": seconds,
            "tools_per_second": round(embedded / seconds, 1) if seconds > 0 else 0.0,
        }
    )
    return ReindexOutcome(summary, second.stopped_by)
