"""What ``toolbox verify`` needs to know, as facts and protocols."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from pydantic import Field

from toolbox_cli.domain.models import Census, Frozen, Generation, ServerInfo, VectorIndex


class SchemaFacts(Frozen):
    """The schema as found. ``problem`` says why there is no registry to look at, else None."""

    problem: str | None = None
    applied: list[str] = Field(default_factory=list)
    pending: list[str] = Field(default_factory=list)
    column_type: str | None = None
    column_dimension: int | None = None
    indexes: list[VectorIndex] = Field(default_factory=list)
    #: Why the fittest index on the column does not serve, None when one does.
    index_fault: str | None = None
    generation: Generation | None = None
    #: All live generations, and the vector indexes of all their columns.
    generations: list[Generation] = Field(default_factory=list)
    all_indexes: list[VectorIndex] = Field(default_factory=list)
    #: Columns that no generation owns.
    orphans: list[str] = Field(default_factory=list)


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
