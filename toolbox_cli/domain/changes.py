"""A change of schema or generations as an operator sees it before agreeing to it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from pydantic import Field

from toolbox_cli.domain.errors import ToolboxError
from toolbox_cli.domain.models import Check, Frozen

if TYPE_CHECKING:
    from toolbox_cli.domain.models import Generation, Target
    from toolbox_cli.domain.ports import Progress


class OutlineStatement(Frozen):
    sql: str
    purpose: str


class OutlineStep(Frozen):
    """What is executed in one transaction (or, for index builds, statement by statement)."""

    title: str
    statements: list[OutlineStatement]


class Loss(Frozen):
    """Rows whose ``what`` is gone for good."""

    count: int
    what: str

    @property
    def phrase(self) -> str:
        return f"{self.count} {self.what}"


class Outline(Frozen):
    """``losses`` are gone for good, ``retires`` can be brought back; ``dependents`` would go on reading old columns.

    ``questions`` lose nothing, and are asked all the same: what they say may not be what was meant. ``settings`` says
    what the ToolBox server's settings have to be from now on, where they are otherwise.
    """

    steps: list[OutlineStep]
    losses: list[str]
    retires: list[str]
    notes: list[str]
    dependents: list[str]
    questions: list[str]
    settings: str | None = None
    #: ``losses``, to be compared; not printed.
    lost: list[Loss] = Field(exclude=True)

    @property
    def empty(self) -> bool:
        return not any(step.statements for step in self.steps)


class Side(Frozen):
    """A generation in a few words."""

    model: str | None
    dimension: int


class CutoverReport(Frozen):
    """``done`` is False where a gate refused, or where nothing was to be done: ``already_since`` says since when search
    reads the newer generation, None where it was not cut over before.

    ``caught_up`` tools were embedded by the cutover itself. ``locked_seconds`` is how long the transaction that swapped
    took, its wait for the lock included: at most so long anybody waited. ``settings`` says what the ToolBox server's
    settings have to be from now on.
    """

    done: bool
    former: Side
    present: Side
    checks: list[Check]
    caught_up: int
    locked_seconds: float | None
    settings: str | None
    already_since: datetime | None = None
    outline: Outline


class SchemaChange(Protocol):
    @property
    def outline(self) -> Outline: ...

    async def execute(self, progress: Progress) -> None:
        """Carry it out; the caller holds the registry's exclusive lock."""


class ChangedMeanwhileError(ToolboxError):
    """Under the lock it was found that tools have changed since they were caught up; nothing was done."""

    exit_code = 5


class CutoverChange(Protocol):
    """The swap of two generations; the caller holds the registry's exclusive lock for all of it."""

    @property
    def outline(self) -> Outline: ...

    @property
    def generation(self) -> Generation:
        """The one that takes over."""

    @property
    def current(self) -> Generation:
        """The one that search reads until then."""

    @property
    def already_done(self) -> bool:
        """Whether nothing is being built, because it took over before: ``current`` is then the former one."""

    async def watch_changes(self, progress: Progress) -> None:
        """From now on, write down which tools the server touches; when this returns, no writer is unwatched."""

    async def execute(self, progress: Progress, *, check: bool = True) -> float:
        """Swap; returns the seconds of the transaction that did it, which is how long others may have waited.

        With ``check`` raises ChangedMeanwhileError when a tool that was touched has no fresh vector. Raises
        LockBusyError naming who is in the way.
        """

    async def give_up(self, progress: Progress) -> None:
        """Watch no longer."""


class SchemaStore(Protocol):
    """Plans changes from the registry as it is found; see ``db.registry``."""

    def exclusive_lock(self, progress: Progress) -> AbstractAsyncContextManager[None]: ...

    async def generation(self) -> Generation | None:
        """The one that search reads; None where the registry has no record of one."""

    async def plan_migrate(self, target: Target, *, online: bool = False) -> SchemaChange: ...

    async def plan_rollback(self, to: str | None) -> SchemaChange: ...

    async def plan_prune(self) -> SchemaChange: ...

    async def plan_cutover(self) -> CutoverChange: ...


#: How many more may be lost than was agreed to, whichever is more: tools come and go while the server writes.
TOLERATED_GROWTH, TOLERATED_MORE = 1.1, 10


def same_agreement(agreed: Outline, planned: Outline) -> bool:
    """Whether what an operator agreed to covers what would be lost now: the same things, and hardly more of them."""
    if (agreed.dependents, agreed.questions) != (planned.dependents, planned.questions):
        return False
    limits = {loss.what: max(loss.count * TOLERATED_GROWTH, loss.count + TOLERATED_MORE) for loss in agreed.lost}
    return all(loss.count <= limits.get(loss.what, 0) for loss in planned.lost)
