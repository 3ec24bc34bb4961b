"""Where the registry stands, in one look."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolbox_cli.core.gates import coverage_gate, index_gate, loaded
from toolbox_cli.core.geometry import threshold_of
from toolbox_cli.core.service import contradictions
from toolbox_cli.domain.catalog import canonical_name
from toolbox_cli.domain.models import Census, CheckStatus, Frozen, Generation, Role
from toolbox_cli.domain.verification import IndexProgress

if TYPE_CHECKING:
    from toolbox_cli.domain.models import Target
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
    """``seconds_left`` is what a reindex would take at the measured speed: 0 when nothing is to be done, None when the
    speed is not known. ``suggested_threshold`` is for ``search --threshold``; None with too few vectors.
    """

    model: str | None
    dimension: int
    column: str
    index: IndexStatus | None
    index_build: IndexProgress | None
    census: Census
    seconds_left: float | None
    suggested_threshold: float | None
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
    #: Why a cutover would be refused now; empty when it would not, None when no generation is being built.
    blockers: list[str] | None
    next_command: str | None


async def status(inspector: Inspector, settings: Settings) -> Status:
    """Read the registry's state, take a census of every live generation, and hold the settings against it."""
    server = await inspector.server()
    facts = await inspector.schema()
    found = {generation.role.value: await _generation(inspector, facts, generation) for generation in facts.generations}
    generations = Generations(**found)
    blockers = await _blockers(inspector, facts, generations)
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
        blockers=blockers,
        next_command=_next_command(facts, generations, blockers),
    )


class Ahead(Frozen):
    """What ``status`` names as next while a generation is being built, and how many tools that still has to embed."""

    command: str | None
    pending: int


async def ahead_of(inspector: Inspector, settings: Settings, target: Target) -> Ahead | None:
    """None when no generation is being built, or not one of this target."""
    found = await status(inspector, settings)
    building, space = found.generations.building, target.space
    if building is None or found.blockers is None or building.model is None or space.model is None:
        return None
    if (canonical_name(building.model), building.dimension) != (canonical_name(space.model), space.dimension):
        return None
    return Ahead(command=found.next_command, pending=building.census.missing + building.census.stale)


async def _blockers(inspector: Inspector, facts: SchemaFacts, generations: Generations) -> list[str] | None:
    """What a cutover would say no to. The recall of the index is left out: measuring it takes seconds."""
    building = next((found for found in facts.generations if found.role is Role.BUILDING), None)
    if building is None or building.rolled_back_at is not None or generations.building is None:
        return None
    outline = await inspector.cutover_outline()
    checks = [
        coverage_gate(building, generations.building.census),
        index_gate(building, facts.index_faults.get(Role.BUILDING)),
    ]
    blockers = [f"{check.name}: {check.detail}" for check in checks if check.status is CheckStatus.FAIL]
    blockers += [f"it names a column that moves: {phrase}" for phrase in outline.dependents]
    blockers += [f"needs an agreement, it would be lost: {phrase}" for phrase in outline.losses]
    return blockers


async def _generation(inspector: Inspector, facts: SchemaFacts, generation: Generation) -> GenerationStatus:
    role: Role = generation.role
    index = next((index for index in facts.all_indexes if index.column == role.column), None)
    census = await inspector.census(generation)
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
        index_build=await inspector.index_build(generation),
        census=census,
        seconds_left=await _seconds_left(inspector, generation, census),
        suggested_threshold=await threshold_of(inspector, generation),
        endpoint_url=generation.endpoint_url,
        rolled_back=generation.rolled_back_at is not None,
    )


async def _seconds_left(inspector: Inspector, generation: Generation, census: Census) -> float | None:
    pending = census.missing + census.stale
    if pending == 0:
        return 0.0
    learned = await inspector.learned(generation)
    return round(pending / learned.tools_per_second, 1) if learned and learned.tools_per_second else None


def _next_command(facts: SchemaFacts, generations: Generations, blockers: list[str] | None) -> str | None:
    current, building = generations.current, generations.building
    if facts.problem is not None or facts.pending or current is None:
        return "toolbox migrate"
    if blockers is not None and building is not None:
        filled = loaded(building.census) and facts.index_faults.get(Role.BUILDING) is None
        behind = current.model is not None and current.census.missing + current.census.stale > 0
        return "toolbox reindex" if behind or not filled else "toolbox cutover"
    if current.model is None:
        # Nothing can be embedded before a model is named; a migration does, and keeps these vectors.
        return "toolbox migrate"
    if current.census.fresh < current.census.active:
        return "toolbox reindex"
    if facts.index_faults.get(Role.CURRENT) is not None:
        return "toolbox reindex"
    return None
