"""Where the registry stands, in one look."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolbox_cli.core.service import contradictions
from toolbox_cli.domain.models import Census, Frozen, Generation, Role

if TYPE_CHECKING:
    from toolbox_cli.domain.settings import Settings
    from toolbox_cli.domain.verification import Inspector, SchemaFacts


class DatabaseStatus(Frozen):
    server_version: str
    pgvector_version: str | None
    embedded: bool


class MigrationStatus(Frozen):
    applied: list[str]
    pending: list[str]


class IndexStatus(Frozen):
    name: str
    method: str
    valid: bool
    element: str
    size_bytes: int


class GenerationStatus(Frozen):
    model: str | None
    dimension: int
    column: str
    index: IndexStatus | None
    census: Census
    endpoint_url: str | None
    rolled_back: bool


class Generations(Frozen):
    current: GenerationStatus | None = None
    building: GenerationStatus | None = None
    previous: GenerationStatus | None = None


class Status(Frozen):
    """The document of ``toolbox status --json``; ``next_command`` is what to do now, None when all is well."""

    database: DatabaseStatus
    migrations: MigrationStatus
    generations: Generations
    problem: str | None
    #: The type of ``tools.embedding`` in a registry that has no record of its generations yet, else None.
    unadopted: str | None
    #: Reindex processes at work now, by the name that they gave themselves.
    workers: list[str]
    #: What the settings say against the registry; the server's inserts fail where they do.
    contradictions: list[str]
    next_command: str | None


async def status(inspector: Inspector, settings: Settings) -> Status:
    """Read the registry's state, take a census of every live generation, and hold the settings against it."""
    server = await inspector.server()
    facts = await inspector.schema()
    found = {generation.role.value: await _generation(inspector, facts, generation) for generation in facts.generations}
    generations = Generations(**found)
    return Status(
        database=DatabaseStatus(
            server_version=server.server_version,
            pgvector_version=server.pgvector_version,
            embedded=server.embedded,
        ),
        migrations=MigrationStatus(applied=facts.applied, pending=facts.pending),
        generations=generations,
        problem=facts.problem,
        unadopted=None if facts.problem or facts.generations else facts.column_type,
        workers=[worker.name for worker in await inspector.workers()],
        contradictions=contradictions(facts.generation, settings)[0] if facts.generation else [],
        next_command=_next_command(facts, generations),
    )


async def _generation(inspector: Inspector, facts: SchemaFacts, generation: Generation) -> GenerationStatus:
    role: Role = generation.role
    index = next((index for index in facts.all_indexes if index.column == role.column), None)
    return GenerationStatus(
        model=generation.model,
        dimension=generation.dimension,
        column=role.column,
        index=IndexStatus(
            name=index.name,
            method=index.method,
            valid=index.valid,
            element=index.element,
            size_bytes=index.size_bytes,
        )
        if index
        else None,
        census=await inspector.census(generation),
        endpoint_url=generation.endpoint_url,
        rolled_back=generation.rolled_back_at is not None,
    )


def _next_command(facts: SchemaFacts, generations: Generations) -> str | None:
    current = generations.current
    if facts.problem is not None or facts.pending or current is None:
        return "toolbox migrate"
    if current.model is None:
        # Nothing can be embedded before a model is named; a migration does, and keeps these vectors.
        return "toolbox migrate"
    if current.census.fresh < current.census.active:
        return "toolbox reindex"
    if facts.index_fault is not None:
        return "toolbox reindex"
    return None
