"""Checks that look at the things themselves: columns, vectors, the service, an insert, a search.

Every check has a stable name, says what it found, and names the one command that mends it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from toolbox_cli.core.service import contradictions
from toolbox_cli.domain.errors import EmbeddingServiceError, WrongDimensionError
from toolbox_cli.domain.models import Check, CheckStatus, Generation
from toolbox_cli.domain.searching import SearchFilter
from toolbox_cli.domain.settings import BUILTIN

if TYPE_CHECKING:
    from toolbox_cli.domain.ports import Embedder
    from toolbox_cli.domain.searching import SearchStore
    from toolbox_cli.domain.settings import Settings
    from toolbox_cli.domain.verification import Inspector, SchemaFacts

#: pgvector's CHANGELOG: 0.8.2 fixed a buffer overflow of parallel HNSW builds, 0.8.3 corruption by HNSW vacuuming,
#: 0.8.4 the error "hnsw graph not repaired" and inserts that fail meanwhile.
SOUND_PGVECTOR = (0, 8, 4)
#: A vector that is made again from the same text: 1 up to rounding, and the same text in another batch differs by 2e-7.
SAME_VECTOR = 0.98

SERVICE_CHECKS = ("service", "service_dimension", "search")


@dataclass
class Verification:
    """Collects checks in the order in which they are read."""

    checks: list[Check] = field(default_factory=list)

    def add(self, name: str, status: CheckStatus, detail: str, remedy: str | None = None) -> None:
        self.checks.append(Check(name=name, status=status, detail=detail, remedy=remedy))

    def require(self, name: str, good: bool, detail: str, remedy: str) -> None:
        self.add(name, CheckStatus.PASS if good else CheckStatus.FAIL, detail, None if good else remedy)

    @property
    def ok(self) -> bool:
        """Warnings do not make a registry wrong."""
        return not any(check.status is CheckStatus.FAIL for check in self.checks)


async def verify(
    inspector: Inspector,
    search_store: SearchStore,
    settings: Settings,
    build_embedder: Callable[[Generation], Embedder],
    *,
    offline: bool,
) -> Verification:
    """Run all checks; those that need the service are skipped ``offline``."""
    verification = Verification()
    await _server(verification, inspector)
    facts = await inspector.schema()
    _migrations(verification, facts)
    if facts.problem is not None or facts.generation is None:
        return verification
    generation = facts.generation
    _column(verification, facts, generation)
    _settings(verification, settings, generation)
    _index(verification, facts, generation)
    await _coverage(verification, inspector, generation)
    await _vectors(verification, inspector, generation)
    await _insert(verification, inspector, generation)
    if offline:
        for name in SERVICE_CHECKS:
            verification.add(name, CheckStatus.SKIP, "left out with --offline")
    elif generation.model is None:
        for name in SERVICE_CHECKS:
            verification.add(name, CheckStatus.SKIP, "nothing says which model made these vectors")
    else:
        await _service(verification, inspector, search_store, build_embedder, generation)
    return verification


async def _server(verification: Verification, inspector: Inspector) -> None:
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
    number = tuple(int(part) for part in version.split(".")[:3])
    if number < (0, 7):
        status, more = CheckStatus.FAIL, ", expected 0.7 or later"
    elif number < SOUND_PGVECTOR:
        status, more = (
            CheckStatus.WARN,
            ": releases before 0.8.4 have known defects in index builds and vacuum",
        )
    else:
        status, more = CheckStatus.PASS, ""
    remedy = None if status is CheckStatus.PASS else "install the newer release, then ALTER EXTENSION vector UPDATE"
    verification.add("pgvector", status, f"pgvector {version}{more}", remedy)


def _migrations(verification: Verification, facts: SchemaFacts) -> None:
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


def _column(verification: Verification, facts: SchemaFacts, generation: Generation) -> None:
    verification.require(
        "column",
        facts.column_dimension == generation.dimension,
        f"tools.embedding is {facts.column_type}, the generation has {generation.dimension} dimensions",
        f"toolbox migrate --dimension {generation.dimension}",
    )


def _settings(verification: Verification, settings: Settings, generation: Generation) -> None:
    wrong, remedy = contradictions(generation, settings)
    detail = "; ".join(wrong) or f"{generation.model or 'unknown model'}, {generation.dimension} dimensions"
    verification.require("settings", not wrong, detail, remedy)


def _index(verification: Verification, facts: SchemaFacts, generation: Generation) -> None:
    if generation.index_method == "none":
        verification.add("index", CheckStatus.WARN, "none, as asked for: every search reads all vectors")
        return
    names = ", ".join(f"{index.name} ({index.method}, {index.element})" for index in facts.indexes)
    fault = facts.index_faults.get(generation.role)
    if fault is None:
        verification.add("index", CheckStatus.PASS, f"{names}: valid, fits {generation.dimension} dimensions")
        return
    if generation.index_method == "ivfflat" and not facts.indexes:
        detail = "no ivfflat index yet: it is built when there are vectors to learn its lists from"
        verification.add("index", CheckStatus.WARN, detail, "toolbox reindex")
        return
    detail = f"{names}: {fault}" if names else "there is no vector index: every search reads all vectors"
    remedy = "toolbox migrate" if generation.model is None else "toolbox reindex"
    verification.add("index", CheckStatus.FAIL, detail, remedy)


async def _coverage(verification: Verification, inspector: Inspector, generation: Generation) -> None:
    census = await inspector.census(generation)
    detail = f"{census.active - census.missing - census.failed} of {census.active} active tools have a vector"
    if census.failed:
        detail += f"; {census.failed} were refused by the service"
    verification.require("coverage", not (census.missing or census.failed), detail, "toolbox reindex")
    unsigned = await inspector.unsigned(generation)
    detail = f"{census.fresh} of {census.active} vectors were made from the present text by the present model"
    if census.stale:
        detail += f"; {census.stale} stale"
    if unsigned:
        detail += f", {unsigned} of them without a fingerprint: nothing says what they were made from"
    verification.require("fingerprints", census.stale == 0, detail, "toolbox reindex")


async def _vectors(verification: Verification, inspector: Inspector, generation: Generation) -> None:
    faults = await inspector.vector_faults(generation)
    detail = f"{faults.zero} of length zero, {faults.non_finite} not finite"
    if faults.examples:
        detail += f": {', '.join(faults.examples)}"
    verification.require("vectors", not (faults.zero or faults.non_finite), detail, "toolbox reindex --all")


async def _insert(verification: Verification, inspector: Inspector, generation: Generation) -> None:
    said = await inspector.try_insert(generation)
    detail = said or f"a tool with {generation.dimension} dimensions was inserted, and rolled back"
    verification.require("insert", said is None, detail, "toolbox migrate")


async def _service(
    verification: Verification,
    inspector: Inspector,
    search_store: SearchStore,
    build_embedder: Callable[[Generation], Embedder],
    generation: Generation,
) -> None:
    embedder = build_embedder(generation)
    where = f"{generation.model} at {generation.endpoint_url}"
    if generation.endpoint_url == BUILTIN:
        where = f"the built-in model {generation.model}"
    try:
        await embedder.embed_query("a tool that adds two numbers")
        verification.add("service", CheckStatus.PASS, f"{where} answers")
        detail = f"it makes {generation.dimension} dimensions, as the column has"
        verification.add("service_dimension", CheckStatus.PASS, detail)
        await _find_by_own_text(verification, inspector, search_store, embedder, generation)
    except WrongDimensionError as exc:
        verification.add("service", CheckStatus.PASS, f"{where} answers")
        remedy = f"toolbox migrate --dimension {exc.found}, or serve the model that makes {exc.expected}"
        verification.add("service_dimension", CheckStatus.FAIL, exc.message, remedy)
        verification.add("search", CheckStatus.SKIP, "needs a service of the right dimension")
    except EmbeddingServiceError as exc:
        verification.add("service", CheckStatus.FAIL, exc.message, exc.hint or "start the embedding service")
        for name in SERVICE_CHECKS[1:]:
            verification.add(name, CheckStatus.SKIP, "needs the embedding service")
    finally:
        await embedder.aclose()


async def _find_by_own_text(
    verification: Verification,
    inspector: Inspector,
    search_store: SearchStore,
    embedder: Embedder,
    generation: Generation,
) -> None:
    sample = await inspector.fresh_tool(generation)
    if sample is None:
        verification.add("search", CheckStatus.WARN, "there is no fresh vector to look for yet", "toolbox reindex")
        return
    vector = (await embedder.embed_documents([sample.text]))[0]
    hits = await search_store.nearest(generation, vector, SearchFilter(), 5)
    similarity = next((hit.similarity for hit in hits if hit.id == sample.id), None)
    found = similarity is not None and similarity >= SAME_VECTOR
    if found:
        detail = f"{sample.name} is found by its own text, similarity {similarity:.4f}"
    elif similarity is not None:
        detail = f"{sample.name} has only similarity {similarity:.4f} to its own text: another model made its vector"
    else:
        detail = f"{sample.name} is not among the five nearest to its own text"
    verification.require("search", found, detail, "toolbox reindex --all")
