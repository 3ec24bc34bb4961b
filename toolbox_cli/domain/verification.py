"""What ``toolbox verify`` needs to know, as facts and protocols."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from pydantic import Field

from toolbox_cli.domain.models import Census, Frozen, Generation, Role, ServerInfo, VectorIndex

if TYPE_CHECKING:
    from toolbox_cli.domain.changes import Outline


class SchemaFacts(Frozen):
    """The schema as found. ``problem`` says why there is no registry to look at, else None."""

    problem: str | None = None
    applied: list[str] = Field(default_factory=list)
    pending: list[str] = Field(default_factory=list)
    column_type: str | None = None
    column_dimension: int | None = None
    indexes: list[VectorIndex] = Field(default_factory=list)
    #: Why the fittest index on a generation's column does not serve; a role is missing where one does.
    index_faults: dict[Role, str] = Field(default_factory=dict)
    generation: Generation | None = None
    #: All live generations, and the vector indexes of all their columns.
    generations: list[Generation] = Field(default_factory=list)
    all_indexes: list[VectorIndex] = Field(default_factory=list)
    #: Columns that no generation owns.
    orphans: list[str] = Field(default_factory=list)


class IndexProgress(Frozen):
    """How far PostgreSQL is with an index; ``share`` of the present phase, from 0 to 1, None where it does not say."""

    phase: str
    share: float | None


class VectorFaults(Frozen):
    zero: int
    non_finite: int
    examples: list[str] | None = None


class Sample(Frozen):
    """A stored tool and the text that its vector was made from."""

    id: int
    name: str
    text: str


class Worker(Frozen):
    """A live reindex process: its server process, the name it gave itself (command, host, process id)."""

    pid: int
    name: str
    since: datetime


class Inspector(Protocol):
    async def server(self) -> ServerInfo: ...

    async def schema(self) -> SchemaFacts: ...

    async def census(self, generation: Generation) -> Census: ...

    async def vector_faults(self, generation: Generation) -> VectorFaults: ...

    async def unsigned(self, generation: Generation) -> int: ...

    async def try_insert(self, generation: Generation) -> str | None:
        """Insert as the server does, roll back; the server's objection in words, or None."""

    async def fresh_tool(self, generation: Generation) -> Sample | None: ...

    async def workers(self) -> list[Worker]: ...

    async def index_build(self, generation: Generation) -> IndexProgress | None:
        """The build of an index on the generation's column that is under way now."""

    async def speed(self, generation: Generation) -> float | None:
        """Tools per second that earlier runs reached with the generation's service."""

    async def cutover_outline(self) -> Outline:
        """What a cutover would do; raises StateError when nothing is being built."""
