"""A change of schema or generations as an operator sees it before agreeing to it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Protocol

from toolbox_cli.domain.models import Frozen

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


class Outline(Frozen):
    """``losses`` are gone for good, ``retires`` can be brought back; ``dependents`` would go on reading old columns."""

    steps: list[OutlineStep]
    losses: list[str]
    retires: list[str]
    notes: list[str]
    dependents: list[str]

    @property
    def empty(self) -> bool:
        return not any(step.statements for step in self.steps)


class SchemaChange(Protocol):
    @property
    def outline(self) -> Outline: ...

    async def execute(self, progress: Progress) -> None:
        """Carry it out; the caller holds the registry's exclusive lock."""


class SchemaStore(Protocol):
    """Plans changes from the registry as it is found; see ``db.registry``."""

    def exclusive_lock(self) -> AbstractAsyncContextManager[None]: ...

    async def current(self) -> Generation | None: ...

    async def plan_migrate(self, target: Target) -> SchemaChange: ...

    async def plan_rollback(self, to: str | None) -> SchemaChange: ...

    async def plan_prune(self) -> SchemaChange: ...


def same_agreement(first: Outline, second: Outline) -> bool:
    """Whether what an operator agreed to still says what would be lost."""

    def gist(outline: Outline) -> tuple[Sequence[str], Sequence[str]]:
        return outline.losses, outline.dependents

    return gist(first) == gist(second)
