"""One pass over a generation: a reader claims ranges of ids, bounded requests embed, one writer stores.

Every queue between them is bounded, so memory does not grow with the registry. What is done is recorded by the data
itself (a vector with a matching fingerprint), so running the command again *is* the resume.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from toolbox_cli.core.batches import LongTexts, batches, truncated
from toolbox_cli.core.claims import POLL, Claims
from toolbox_cli.core.pace import Pace
from toolbox_cli.domain.errors import (
    EmbeddingServiceError,
    InputRefusedError,
    RateLimitedError,
    ToolboxError,
)
from toolbox_cli.domain.models import Generation, PendingTool, ToolFailure
from toolbox_cli.domain.reindexing import RANGE_SIZE, Page

if TYPE_CHECKING:
    from toolbox_cli.domain.ports import Embedder, Progress, Vectors
    from toolbox_cli.domain.reindexing import EmbeddingStore, Scope, Selection

#: Rows a commit: at full speed 1,000 carried 19,000 tools a second where 500 carried 16,600 and 64 two thirds of that.
ROWS_A_COMMIT = 1_000
#: Phases in which a range is filled while another vector column of the table has an index. An update enters every
#: vector index again unless it is HOT, which takes room on the row's own page: so rows that lie side by side are filled
#: in different commits, and what the earlier ones left behind makes room for the later ones. Filling 10,000 × 768
#: beside an HNSW index, in tools a second, with 4, 8, 16 and 32 phases: 16,600, 18,500, 13,000, 13,100 on a table of
#: migration 001 (17,800 without the index), and 1,050, 1,560, 1,870, 1,940 on an adopted one, whose pages are full: a
#: sixth of its rows has to move whatever is done, for the others to find room.
PHASES_BESIDE_AN_INDEX = 8
#: Tools a page of reading: building 512 texts and fetching them takes about 20 ms.
ROWS_A_PAGE = 512
#: Seconds that the writer waits for more answers to join; at full speed ROWS_A_COMMIT come sooner.
LINGER = 0.03
#: Single texts refused in a row, none accepted between, after which the service is asked whether it accepts anything.
SUSPICIOUS_REFUSALS = 8
#: Seconds without any answer after which a service that has answered before counts as gone.
GONE_AFTER = 25.0
#: Seconds for which a rate limit is waited out when nothing at all gets through meanwhile.
THROTTLED_FOR_GOOD = 900.0
#: Seconds that requests under way get to finish when the run is interrupted, and then each of the writer's two last
#: steps; the run is to end within two.
GRACE = 1.2
FLUSH_GRACE = 0.3

_Answer = tuple["_Range", list[PendingTool], "Vectors | None"]


@dataclass(frozen=True)
class PipelineOptions:
    """How to ask; what is asked is in the selection. ``max_tokens`` is the model's input limit, None if unknown."""

    concurrency: int = 10
    batch_size: int | None = None
    limit: int | None = None
    max_rate: float | None = None
    max_tokens: int | None = None
    long_texts: LongTexts = "truncate"
    phases: int = 1


@dataclass
class _Range:
    """A claimed range of ids; it is given back when every tool of it was written or refused."""

    number: int
    open_tools: int = 0
    #: Whether it was read to its end, and no limit came before.
    whole: bool = False
    released: bool = False


@dataclass
class Tally:
    """What a pass has done so far."""

    embedded: int = 0
    failures: list[ToolFailure] = field(default_factory=list)
    #: Tools edited or deleted between reading and writing: not stored.
    conflicts: int = 0
    handed_out: int = 0
    #: Ids of tools whose text was cut to what the model reads.
    truncated: set[int] = field(default_factory=set)


class Pipeline:
    """Use once: ``run`` a scope, then ``leave``. ``tally`` says what was done, also after an error."""

    def __init__(
        self,
        store: EmbeddingStore,
        embedder: Embedder,
        generation: Generation,
        selection: Selection,
        options: PipelineOptions,
        progress: Progress,
        stop: asyncio.Event,
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._generation = generation
        self._options = options
        self._progress = progress
        self._stop = stop
        self.tally = Tally()
        self._pace = Pace(options.concurrency, options.max_rate)
        self._setbacks = embedder.setbacks
        self._batches: asyncio.Queue[tuple[_Range, list[PendingTool]] | None] = asyncio.Queue(2 * options.concurrency)
        self._answers: asyncio.Queue[_Answer | None] = asyncio.Queue(2 * options.concurrency)
        # psycopg runs one statement at a time on a session: claims, writes and releases take turns.
        self._writing = asyncio.Lock()
        self._claims = Claims(store.ranges(generation, selection), selection, self._writing)
        self._ended_well = False
        self._under_way: set[asyncio.Task[None]] = set()
        self._last_answer: float | None = None
        self._slowest_answer = 0.0
        #: When each request that is under way now was asked.
        self._asked: dict[object, float] = {}
        #: Refused one by one since the last accepted batch, and from how many on the service is asked if it takes any.
        self._refused_in_a_row = 0
        self._suspicious = SUSPICIOUS_REFUSALS

    async def run(self, scope: Scope) -> None:
        """Embed what the scope found pending; ends early, without an error, when ``stop`` is set.

        Raises EmbeddingServiceError when the service cannot be used, DatabaseError when the database cannot;
        whatever was answered before is stored.
        """
        await self._claims.begin()
        writer = asyncio.create_task(self._write())
        producer = asyncio.create_task(self._produce([part.range for part in scope.ranges if part.pending]))
        stopped = asyncio.create_task(self._stop.wait())
        try:
            # A writer that ends early has failed: nobody would empty the queue any more.
            await asyncio.wait({writer, producer, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if self._stop.is_set() and self._under_way:
                # Answers that are nearly there were paid for.
                await asyncio.wait(self._under_way, timeout=GRACE)
        finally:
            stopped.cancel()
            producer.cancel()
            await asyncio.wait({producer})
            await self._end_writer(writer)
        if not producer.cancelled():
            producer.result()
        self._ended_well = not self._exhausted()

    async def leave(self) -> None:
        """After ``run``, however it ended: keep what other workers have to know of it until they do."""
        try:
            if self._ended_well:
                await self._claims.let_others_look(self._stop, self._progress)
        finally:
            await self._claims.end()

    async def _end_writer(self, writer: asyncio.Task[None]) -> None:
        """Let the writer store what it has. One that has failed empties no queue, one that waits must not keep us."""
        end = asyncio.create_task(self._answers.put(None))
        await asyncio.wait({end, writer}, return_when=asyncio.FIRST_COMPLETED, timeout=self._patience())
        await asyncio.wait({writer}, timeout=self._patience())
        end.cancel()
        if not writer.done():
            writer.cancel()
            await asyncio.wait({writer})
        if not writer.cancelled():
            writer.result()

    def _patience(self) -> float | None:
        return FLUSH_GRACE if self._stop.is_set() else None

    async def _produce(self, ranges: Sequence[int]) -> None:
        """Read and embed until nothing is left. The first error comes out as itself: one message, not a group."""
        watch: asyncio.Task[None] | None = None
        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(self._watch())
                group.create_task(self._read(ranges))
                async with asyncio.TaskGroup() as requests:
                    await self._hand_out(requests)
                watch.cancel()
        except ExceptionGroup as errors:
            first: BaseException | None = errors.subgroup(ToolboxError)
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            if first is None:
                raise
            raise first from None

    async def _read(self, ranges: Sequence[int]) -> None:
        """Claim ranges until none is left; those of other live workers are looked at again until they are free."""
        waiting = list(ranges)
        while waiting and not self._exhausted():
            held_by_others: list[int] = []
            for number in waiting:
                if self._exhausted():
                    break
                selection = await self._claims.take(number)
                if selection is not None:
                    await self._read_range(_Range(number), selection)
                else:
                    held_by_others.append(number)
            waiting = held_by_others
            if waiting:
                await asyncio.sleep(POLL)
        await self._claims.taken_all()
        await self._batches.put(None)

    async def _read_range(self, claimed: _Range, selection: Selection) -> None:
        """Hand the range's tools on, a page at a time: a large page would hold up the answers that come meanwhile."""
        claimed.open_tools = 1  # the reading itself: the range stays ours until its last page is read
        for phase in range(self._options.phases):
            page = Page(claimed.number, None, ROWS_A_PAGE, phase, self._options.phases)
            while not self._exhausted():
                tools = await self._store.pending(self._generation, selection, page)
                await self._queue(claimed, tools)
                if len(tools) < ROWS_A_PAGE:
                    break
                page = page._replace(after=tools[-1].id)
        claimed.open_tools -= 1
        claimed.whole = not self._exhausted()
        await self._answers.put((claimed, [], None))

    async def _queue(self, claimed: _Range, tools: list[PendingTool]) -> None:
        if self._options.limit is not None:
            tools = tools[: self._options.limit - self.tally.handed_out]
        self.tally.handed_out += len(tools)
        claimed.open_tools += len(tools)
        size = min(self._options.batch_size or self._embedder.max_batch, self._embedder.max_batch)
        for batch in batches(tools, size):
            await self._batches.put((claimed, batch))

    def _exhausted(self) -> bool:
        return self._options.limit is not None and self.tally.handed_out >= self._options.limit

    async def _hand_out(self, requests: asyncio.TaskGroup) -> None:
        while (item := await self._batches.get()) is not None:
            claimed, batch = item
            await self._pace.enter(len(batch))
            if self._stop.is_set():
                # Nothing new: what is under way now is waited for, and would be lost with a later start.
                self._pace.leave()
                return
            task = requests.create_task(self._request(claimed, batch))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _watch(self) -> None:
        """End the run when a service that has answered before answers nothing any more.

        A hanging service shows no fault before the time for a request is over. How long is too long is learned: a
        model that takes a minute for a batch is slow, not gone. One that says 429 or 503 is alive, and has its own
        limits.
        """
        setbacks, sign_of_life = self._embedder.setbacks, 0.0
        while True:
            await asyncio.sleep(0.5)
            if self._embedder.setbacks != setbacks:
                setbacks, sign_of_life = self._embedder.setbacks, time.monotonic()
            if self._last_answer is None or not self._asked:
                continue
            silence = time.monotonic() - max(self._last_answer, min(self._asked.values()), sign_of_life)
            if silence > max(GONE_AFTER, 3 * self._slowest_answer):
                raise EmbeddingServiceError(
                    f"the embedding service has answered nothing for {silence:.0f} s; before, it took at most"
                    f" {self._slowest_answer:.1f} s",
                    hint="What was embedded is kept. Look at the service, then run the command again.",
                )

    async def _request(self, claimed: _Range, batch: list[PendingTool]) -> None:
        try:
            await self._embed_or_halve(claimed, batch)
        finally:
            self._pace.leave()

    async def _embed_or_halve(self, claimed: _Range, batch: list[PendingTool]) -> None:
        """One refused text must not take its whole batch along: halve until it stands alone."""
        try:
            texts = [self._fitting(tool) for tool in batch]
            vectors = await self._waiting_out(lambda: self._embedder.embed_documents(texts))
        except InputRefusedError as exc:
            if len(batch) > 1:
                middle = len(batch) // 2
                await self._embed_or_halve(claimed, batch[:middle])
                await self._embed_or_halve(claimed, batch[middle:])
            else:
                await self._refused(claimed, batch[0], exc)
            return
        self._refused_in_a_row = 0
        await self._answers.put((claimed, batch, vectors))

    def _fitting(self, tool: PendingTool) -> str:
        """The text as the model can read it; raises InputRefusedError for a long one that is not to be cut."""
        limit = self._options.max_tokens
        if limit is None:
            return tool.text
        text = truncated(tool.text, limit)
        if len(text) < len(tool.text):
            if self._options.long_texts == "refuse":
                raise InputRefusedError(f"the text is longer than the {limit} tokens that the model reads (estimated)")
            self.tally.truncated.add(tool.id)
        return text

    async def _waiting_out(self, ask: Callable[[], Awaitable[Vectors]]) -> Vectors:
        """Ask, at the pace that the service bears; a rate limit is waited out, everybody pausing with us."""
        throttled_since = time.monotonic()
        while True:
            started = time.monotonic()
            try:
                vectors = await self._asking(ask)
            except RateLimitedError as exc:
                self._pace.setback()
                if time.monotonic() - max(throttled_since, self._last_answer or 0.0) > THROTTLED_FOR_GOOD:
                    raise
                pause = min(exc.retry_after or 10.0, THROTTLED_FOR_GOOD)
                self._progress.note(f"the service asks to wait: pausing for {pause:.0f} s")
                self._pace.pause(pause)
                await asyncio.sleep(pause)
                continue
            now = time.monotonic()
            self._last_answer = now
            if self._embedder.setbacks != self._setbacks:
                self._setbacks = self._embedder.setbacks
                self._pace.setback()
            else:
                self._slowest_answer = max(self._slowest_answer, now - started)
                self._pace.success()
            return vectors

    async def _asking(self, ask: Callable[[], Awaitable[Vectors]]) -> Vectors:
        """Ask once; ``_watch`` knows of it meanwhile, and of no pause between two askings."""
        request = object()
        self._asked[request] = time.monotonic()
        try:
            return await ask()
        finally:
            del self._asked[request]

    async def _refused(self, claimed: _Range, tool: PendingTool, reason: InputRefusedError) -> None:
        self.tally.failures.append(ToolFailure(id=tool.id, name=tool.name, error=reason.message))
        self._refused_in_a_row += 1
        if self._refused_in_a_row == self._suspicious:
            # It does refuse these; if it takes a plain text, only ask again after twice as many.
            self._suspicious *= 2
            try:
                await self._embedder.embed_query("a tool that adds two numbers")
            except InputRefusedError as exc:
                raise EmbeddingServiceError(
                    f"the embedding service refuses every text: {exc.message}", hint=exc.hint
                ) from exc
        async with self._writing:
            await self._store.record_failure(self._generation, tool, reason.message)
        await self._answers.put((claimed, [tool], None))

    async def _write(self) -> None:
        """Join answers into commits of about ROWS_A_COMMIT rows while the next requests are under way."""
        ended = False
        rows_a_commit = ROWS_A_COMMIT if self._options.phases == 1 else RANGE_SIZE // self._options.phases
        while not ended:
            collected: list[_Answer] = []
            rows = 0
            deadline: float | None = None
            while rows < rows_a_commit:
                try:
                    async with asyncio.timeout_at(deadline):
                        item = await self._answers.get()
                except TimeoutError:
                    break
                deadline = deadline or asyncio.get_running_loop().time() + LINGER
                if item is None:
                    ended = True
                    break
                collected.append(item)
                rows += len(item[1])
            if collected:
                async with self._writing:
                    await self._store_collected(collected)

    async def _store_collected(self, collected: list[_Answer]) -> None:
        answered = [(tools, vectors) for _, tools, vectors in collected if vectors is not None]
        if answered:
            tools = [tool for batch, _ in answered for tool in batch]
            written = await self._store.write(self._generation, tools, [vectors for _, vectors in answered])
            self.tally.embedded += written
            self.tally.conflicts += len(tools) - written
        self._progress.advance(sum(len(tools) for _, tools, _ in collected))
        for claimed, tools, _ in collected:
            claimed.open_tools -= len(tools)
            if claimed.open_tools == 0 and not claimed.released:
                claimed.released = True
                await self._claims.give_back(claimed.number, whole=claimed.whole)
