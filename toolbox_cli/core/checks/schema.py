"""The server, the migrations, the column, the settings, and what killed commands have left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolbox_cli.core.service import contradictions
from toolbox_cli.domain.models import CheckStatus, Generation

if TYPE_CHECKING:
    from toolbox_cli.core.checks.verification import Verification
    from toolbox_cli.domain.settings import Settings
    from toolbox_cli.domain.verification import Inspector, SchemaFacts

#: pgvector's CHANGELOG: 0.8.2 fixed a buffer overflow of parallel HNSW builds, 0.8.3 corruption by HNSW vacuuming,
#: 0.8.4 the error "hnsw graph not repaired" and inserts that fail meanwhile.
SOUND_PGVECTOR = (0, 8, 4)
#: Below this share of the vector index a server's cache sends most searches to the disk.
CACHED_SHARE = 0.25
MEGABYTE = 1 << 20


async def check_server(verification: Verification, inspector: Inspector) -> None:
    """PostgreSQL and pgvector."""
    server = await inspector.server()
    where = " (embedded)" if server.embedded else ""
    verification.require(
        "server",
        server.server_version_number >= 140_000,
        f"PostgreSQL {server.server_version}{where}",
        "upgrade the server to PostgreSQL 14 or later",
    )
    version = server.pgvector_version
    if version is None:
        verification.add("pgvector", CheckStatus.FAIL, "not installed in this database", "toolbox migrate")
        return
    available = (await inspector.server_settings()).pgvector_available
    number = _number(version)
    upgrade = "install the newer release, then ALTER EXTENSION vector UPDATE"
    if number < (0, 7):
        verification.add("pgvector", CheckStatus.FAIL, f"pgvector {version}, expected 0.7 or later", upgrade)
    elif number < SOUND_PGVECTOR:
        more = "releases before 0.8.4 have known defects in index builds and vacuum"
        verification.add("pgvector", CheckStatus.WARN, f"pgvector {version}: {more}", upgrade)
    else:
        newer = available is not None and _number(available) > number
        detail = f"pgvector {version}"
        if newer:
            detail += f", the server has {available}"
        verification.wish("pgvector", not newer, detail, "ALTER EXTENSION vector UPDATE")


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3])


def check_migrations(verification: Verification, facts: SchemaFacts) -> None:
    if facts.problem is not None:
        verification.add("migrations", CheckStatus.FAIL, facts.problem, "toolbox migrate")
        return
    detail = f"{len(facts.applied)} applied"
    if facts.pending:
        detail += f", pending: {', '.join(facts.pending)}"
    elif facts.generation is None:
        detail += ", but no current generation is recorded"
    good = not facts.pending and facts.generation is not None
    verification.require("migrations", good, detail, "toolbox migrate")
    # Before a registry is adopted its column belongs to no generation either, and prune is not what mends that.
    if facts.orphans and facts.generation is not None:
        detail = f"no generation owns {', '.join(facts.orphans)}"
        verification.add("orphans", CheckStatus.WARN, detail, "toolbox prune")


async def check_leftovers(verification: Verification, inspector: Inspector) -> None:
    found = (await inspector.leftovers()).found
    detail = "; ".join(text for text, _ in found) or "nothing is left of interrupted commands"
    verification.wish("leftovers", not found, detail, found[0][1] if found else None)


def check_column(verification: Verification, facts: SchemaFacts, generation: Generation) -> None:
    verification.require(
        "column",
        facts.column_dimension == generation.dimension,
        f"tools.embedding is {facts.column_type}, the generation has {generation.dimension} dimensions",
        f"toolbox migrate --dimension {generation.dimension}",
    )


def check_settings(verification: Verification, settings: Settings, generation: Generation) -> None:
    wrong, remedy = contradictions(generation, settings)
    detail = "; ".join(wrong) or f"{generation.model or 'unknown model'}, {generation.dimension} dimensions"
    verification.require("settings", not wrong, detail, remedy)


async def check_server_settings(verification: Verification, inspector: Inspector, facts: SchemaFacts) -> None:
    """Settings that make searches slow; index builds are given what they need by toolbox itself."""
    settings = await inspector.server_settings()
    index = max((index.size_bytes for index in facts.indexes), default=0)
    detail = (
        f"shared_buffers {settings.shared_buffers // MEGABYTE} MB, maintenance_work_mem"
        f" {settings.maintenance_work_mem // MEGABYTE} MB, {settings.parallel_workers} parallel maintenance workers"
    )
    if index * CACHED_SHARE <= settings.shared_buffers:
        verification.add("server_settings", CheckStatus.PASS, detail)
        return
    verification.add(
        "server_settings",
        CheckStatus.WARN,
        f"{detail}; the vector index has {index // MEGABYTE} MB, so most of a search is read from outside of the cache",
        f"give the server more cache: shared_buffers = '{index // MEGABYTE}MB' or as much as there is",
    )


async def check_insert(verification: Verification, inspector: Inspector, generation: Generation) -> None:
    said = await inspector.try_insert(generation)
    detail = said or f"a tool with {generation.dimension} dimensions was inserted, and rolled back"
    verification.require("insert", said is None, detail, "toolbox migrate")
