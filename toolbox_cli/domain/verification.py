"""What ``toolbox verify`` needs to know, as facts and protocols."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pydantic import Field

from toolbox_cli.domain.models import Census, Frozen, Generation, Role, ServerInfo, VectorIndex

if TYPE_CHECKING:
    from collections.abc import Sequence

    from toolbox_cli.domain.changes import Outline
    from toolbox_cli.domain.ports import Vectors
    from toolbox_cli.domain.profiles import ServiceProfile
    from toolbox_cli.domain.reindexing import Learned


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
    #: Whether the full-text index is valid; None when there is none.
    text_index: bool | None = None
    #: Columns that no generation owns.
    orphans: list[str] = Field(default_factory=list)


class IndexProgress(Frozen):
    """How far PostgreSQL is with an index; ``share`` of the present phase, from 0 to 1, None where it does not say."""

    phase: str
    share: float | None


class VectorFaults(Frozen):
    """Of all vectors; ``unnormalised`` are those whose length is not 1 within 1 %."""

    looked_at: int = 0
    zero: int
    non_finite: int
    unnormalised: int = 0
    examples: list[str] | None = None


class Duplicates(Frozen):
    """So many tools of different texts share one vector; the first of them by id."""

    tools: int
    names: list[str]
    ids: list[int]


class SampledVectors(NamedTuple):
    """Stored vectors, float32, shape (tools, dimension), with the ids and names of their tools."""

    ids: list[int]
    names: list[str]
    vectors: Vectors


class ServerSettings(Frozen):
    """Sizes in bytes."""

    shared_buffers: int
    maintenance_work_mem: int
    parallel_workers: int
    pgvector_available: str | None


class Leftovers(Frozen):
    """What commands that were killed may leave: each in words, with the command that clears it up."""

    found: list[tuple[str, str]] = Field(default_factory=list)


class Sample(Frozen):
    """A stored tool and the text that its vector was made from."""

    id: int
    name: str
    text: str


class StoredSample(Sample):
    """The same with the vector, in pgvector's text form."""

    vector: str


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

    async def stamps_alone(self, generation: Generation) -> int: ...

    async def duplicates(self, generation: Generation) -> list[Duplicates]: ...

    async def sampled_vectors(self, generation: Generation, count: int) -> SampledVectors:
        """At most so many vectors of active tools, the same ones at every call."""

    async def sample(self, generation: Generation, count: int, ids: Sequence[int] = ()) -> list[StoredSample]: ...

    async def server_settings(self) -> ServerSettings: ...

    async def leftovers(self) -> Leftovers: ...

    async def learned(self, generation: Generation) -> Learned | None:
        """What earlier runs and probes have found of the generation's service."""

    async def keep_profile(self, generation: Generation, profile: ServiceProfile) -> None:
        """Remember what a service does, for reindex."""

    async def workers(self) -> list[Worker]: ...

    async def index_build(self, generation: Generation) -> IndexProgress | None:
        """The build of an index on the generation's column that is under way now."""

    async def cutover_outline(self) -> Outline:
        """What a cutover would do; raises StateError when nothing is being built."""
