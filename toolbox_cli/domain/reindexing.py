"""What a reindex is asked to do, and what it found to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, NamedTuple, Protocol

from toolbox_cli.domain.models import Census, Frozen, Generation, PendingTool, Role

if TYPE_CHECKING:
    from toolbox_cli.domain.ports import Progress, Vectors


class Selection(Frozen):
    """Which tools: None means no restriction. ``everything`` also takes those that are fresh."""

    everything: bool = False
    include_inactive: bool = False
    category: str | None = None
    ids: list[int] | None = None


#: Ids a range: the unit that a worker claims, and that one query reads.
RANGE_SIZE = 2_048


class Page(NamedTuple):
    """A page of reading: at most ``size`` tools of a range after an id (None: from its start), of one phase.

    A range is read in ``phases``: in phase p come the ids with id mod phases = p. See ``PHASES_BESIDE_AN_INDEX``.
    """

    range: int
    after: int | None
    size: int
    phase: int = 0
    phases: int = 1


class RangeScope(Frozen):
    """One range of ids counted: ids from ``range * RANGE_SIZE`` up to the next range.

    ``selected == unchanged + failed_before + missing + stale + forced``; ``characters`` counts the texts that would
    be sent.
    """

    range: int
    selected: int
    unchanged: int
    failed_before: int
    missing: int
    stale: int
    forced: int
    characters: int

    @property
    def pending(self) -> int:
        return self.selected - self.unchanged


class Scope(Frozen):
    """A selection counted, range by range."""

    ranges: list[RangeScope]

    @property
    def selected(self) -> int:
        return sum(part.selected for part in self.ranges)

    @property
    def unchanged(self) -> int:
        return sum(part.unchanged for part in self.ranges)

    @property
    def pending(self) -> int:
        return sum(part.pending for part in self.ranges)

    @property
    def characters(self) -> int:
        return sum(part.characters for part in self.ranges)

    def reasons(self) -> dict[str, int]:
        """Why tools would be embedded: how many for each reason."""
        names = ("missing", "stale", "failed_before", "forced")
        return {name: sum(getattr(part, name) for part in self.ranges) for name in names}


class Learned(Frozen):
    """What earlier runs have learned of a service: its batch limit in texts, its speed with our requests; and what a
    probe has found of the longest input that it reads, in tokens.
    """

    max_batch: int | None
    tools_per_second: float | None
    max_tokens: int | None = None


class Ranges(Protocol):
    """Ranges of ids among live workers: claims, and marks for those that were asked to make the same things anew."""

    async def claim(self, number: int) -> bool:
        """Take a range for this worker; False when another live worker has it."""

    async def release(self, number: int) -> None: ...

    async def join(self) -> None:
        """Let the others know that this worker makes everything anew."""

    async def mark(self, number: int) -> None:
        """Let the others know that everything in a range was made anew; the caller holds it."""

    async def marked(self) -> set[int]:
        """What others have marked."""

    async def taken_all(self) -> None:
        """Let the others know that this worker takes no more ranges, and so looks at no marks."""

    async def others(self) -> bool:
        """Whether others that have joined still take ranges."""

    async def leave(self) -> None:
        """Take the marks away."""


class EmbeddingStore(Protocol):
    """Where vectors are kept; see ``db.embeddings`` for what each promise rests on."""

    async def check_session(self) -> None: ...

    def as_worker(self, progress: Progress) -> AbstractAsyncContextManager[None]: ...

    async def generations(self) -> Mapping[Role, Generation]: ...

    async def beside_an_index(self, generation: Generation) -> bool: ...

    async def defer_index(self, generation: Generation, progress: Progress) -> None: ...

    async def complete_index(self, generation: Generation, progress: Progress, *, rebuild: bool = False) -> float: ...

    async def learned(self, generation: Generation) -> Learned | None: ...

    async def learn(self, generation: Generation, learned: Learned) -> None: ...

    async def resolve(self, wanted: Sequence[str]) -> list[int]: ...

    async def census(self, generation: Generation) -> Census: ...

    async def index_fault(self, generation: Generation) -> str | None: ...

    async def changed_tools(self) -> list[int]: ...

    async def scope(self, generation: Generation, selection: Selection, *, measure: bool = False) -> Scope: ...

    async def pending(self, generation: Generation, selection: Selection, page: Page) -> list[PendingTool]: ...

    def ranges(self, generation: Generation, selection: Selection) -> Ranges: ...

    async def write(self, generation: Generation, tools: Sequence[PendingTool], chunks: Sequence[Vectors]) -> int: ...

    async def record_failure(self, generation: Generation, tool: PendingTool, error: str) -> None: ...
