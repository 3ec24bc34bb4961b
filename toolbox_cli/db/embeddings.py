"""Vectors in and out of a generation's column: census, what is pending, compare-and-swap writes, quarantine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import errors, sql
from psycopg.rows import class_row, dict_row, scalar_row

from toolbox_cli.db.faults import database_errors
from toolbox_cli.db.index_builds import is_complete, plan_index, rebuild_index
from toolbox_cli.db.indexes import drop_index, index_fault
from toolbox_cli.db.queries import always, query
from toolbox_cli.db.ranges import PostgresRanges
from toolbox_cli.db.state import RegistryState, read_state
from toolbox_cli.db.vectors import FingerprintArray, IdArray, VectorArray, register_arrays
from toolbox_cli.db.workers import as_last_worker, as_worker, check_session
from toolbox_cli.domain.errors import DatabaseError, LockBusyError, NegativeAnswerError
from toolbox_cli.domain.models import Census, Generation, PendingTool, Role
from toolbox_cli.domain.reindexing import RANGE_SIZE, Learned, Page, RangeScope, Scope, Selection

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from toolbox_cli.domain.ports import Progress, Vectors

DEADLOCK_RETRIES = 3
#: Texts a request where a probe has found that a service takes many: 128 carried twice what 64 did, more carried less.
MOST_IN_A_REQUEST = 128


class PostgresEmbeddingStore:
    """Two sessions: ``reader`` pages through what is pending, ``writer`` holds the locks and writes.

    The writer's session is also the one that holds the advisory locks, so a worker that lost its locks has by the
    same event lost its means to write: no fencing token is needed.
    """

    @classmethod
    async def create(
        cls, conninfo: str, reader: psycopg.AsyncConnection, writer: psycopg.AsyncConnection, wait_timeout: float
    ) -> PostgresEmbeddingStore:
        """Prepare the writer's session for binary vectors. The database must have pgvector."""
        with database_errors():
            await register_arrays(writer)
        return cls(conninfo, reader, writer, wait_timeout)

    def __init__(
        self, conninfo: str, reader: psycopg.AsyncConnection, writer: psycopg.AsyncConnection, wait_timeout: float
    ) -> None:
        self._conninfo = conninfo
        self._reader = reader
        self._writer = writer
        self._wait_timeout = wait_timeout

    async def check_session(self) -> None:
        """Raise StateError for a pooler in transaction mode: it would lose the locks between two statements."""
        await check_session(self._reader, self._writer)

    def as_worker(self, progress: Progress) -> AbstractAsyncContextManager[None]:
        """Be counted as a live worker, and keep schema and generations as they are while vectors are written."""
        return as_worker(self._writer, self._wait_timeout, progress)

    async def generations(self) -> Mapping[Role, Generation]:
        """The live generations; StateError for a database that has no registry with a record of them."""
        state = await self._state()
        state.require_generation(Role.CURRENT)
        return state.generations

    async def beside_an_index(self, generation: Generation) -> bool:
        """Whether another vector column of the table has an index, which every update that is not HOT would enter."""
        return any(index.column != generation.role.column for index in (await self._state()).indexes)

    async def defer_index(self, generation: Generation, progress: Progress) -> None:
        """Drop the column's vector indexes; ``complete_index`` builds what the generation asks for again.

        Until then searches read every vector. A killed run leaves it so: the next one completes it.
        """
        for index in (await self._state()).indexes_on(generation.role):
            progress.note(f"index {index.name} is dropped and built again after the load: many vectors will change")
            try:
                with database_errors():
                    # Dropping waits for transactions that may use the index. An abandoned drop leaves it invalid,
                    # which costs time but harms nobody, and the build afterwards replaces it.
                    await self._reader.execute(query("indexes", "short_wait"))
                    await self._reader.execute(drop_index(index.name, concurrently=True))
            except (LockBusyError, DatabaseError) as exc:
                if self._reader.closed or self._reader.broken:
                    raise
                progress.note(f"the index stays, so this takes longer: {exc.message}")
            with database_errors():
                await self._reader.execute(query("indexes", "usual_wait"))

    async def complete_index(self, generation: Generation, progress: Progress, *, rebuild: bool = False) -> float:
        """Build the index that the generation asks for, unless it is there or another worker is still at work.

        With ``rebuild`` also where it is there; the new one is built before the old one goes. Returns the seconds that
        it took.
        """
        async with as_last_worker(self._writer) as alone:
            if not alone:
                return 0.0
            state = await self._state()
            present = state.generations.get(generation.role)
            # Between our two locks somebody may have swapped the columns.
            if present is None or present.id != generation.id:
                return 0.0
            if is_complete(state, generation):
                if not rebuild or generation.index_method == "none":
                    return 0.0
                return await rebuild_index(await self._state(count=True), generation).execute(self._conninfo, progress)
            # Counting reads the whole heap, so it waits until it is known to be needed.
            build = plan_index(await self._state(count=True), None, generation, generation.role)
            return await build.execute(self._conninfo, progress) if build is not None else 0.0

    async def _state(self, *, count: bool = False) -> RegistryState:
        with database_errors():
            return await read_state(self._reader, count=count)

    async def learned(self, generation: Generation) -> Learned | None:
        return await learned_of(self._reader, generation)

    async def learn(self, generation: Generation, learned: Learned) -> None:
        """Remember it for the next run."""
        with database_errors():
            parameters = service_parameters(generation) | learned.model_dump()
            await self._writer.execute(query("embeddings", "learn"), parameters)

    async def census(self, generation: Generation) -> Census:
        return await census(self._reader, generation)

    async def index_fault(self, generation: Generation) -> str | None:
        """Why the vector index on a generation's column does not serve, None when it does."""
        return index_fault(await self._state(), generation)

    async def changed_tools(self) -> list[int]:
        """Ids of the tools that the server has touched since a cutover began to write them down."""
        with database_errors():
            async with self._reader.cursor(row_factory=scalar_row) as cursor:
                await cursor.execute(query("online", "changed_tools"))
                return await cursor.fetchall()

    async def scope(self, generation: Generation, selection: Selection, *, measure: bool = False) -> Scope:
        """Count what a run with this selection would do; ``measure`` also counts the characters to send."""
        with database_errors():
            async with self._reader.cursor(row_factory=class_row(RangeScope)) as cursor:
                statement = query("embeddings", "scope", **columns_of(generation))
                parameters = (
                    space_of(generation) | _selection(selection) | {"range_size": RANGE_SIZE, "measure": measure}
                )
                await cursor.execute(statement, parameters)
                return Scope(ranges=await cursor.fetchall())

    async def resolve(self, wanted: Sequence[str]) -> list[int]:
        """Ids for names or ids; NegativeAnswerError names those that do not exist."""
        with database_errors():
            cursor = await self._reader.execute(query("embeddings", "resolve_tools"), {"wanted": list(wanted)})
            rows = await cursor.fetchall()
        unknown = [name for name, tool_id in rows if tool_id is None]
        if unknown:
            raise NegativeAnswerError(
                f"no tool has the id or name {', '.join(map(repr, unknown))}",
                hint="`toolbox list` shows what there is.",
            )
        return [tool_id for _, tool_id in rows]

    async def pending(self, generation: Generation, selection: Selection, page: Page) -> list[PendingTool]:
        """Tools of a range of ids whose vectors have to be made: a page of them, by id."""
        start = page.range * RANGE_SIZE - 1 if page.after is None else page.after
        bounds = {"after": start, "past": (page.range + 1) * RANGE_SIZE, "page": page.size}
        phase = {"phase": page.phase, "phases": page.phases}
        parameters = space_of(generation) | _selection(selection) | bounds | phase
        with database_errors():
            async with self._reader.cursor(row_factory=_pending_tool) as cursor:
                await cursor.execute(query("embeddings", "pending", **columns_of(generation)), parameters)
                return await cursor.fetchall()

    def ranges(self, generation: Generation, selection: Selection) -> PostgresRanges:
        """The claims of a pass."""
        return PostgresRanges(self._writer, generation.role, selection)

    async def write(self, generation: Generation, tools: Sequence[PendingTool], chunks: Sequence[Vectors]) -> int:
        """Store vectors, chunks of float32 (n, dimension) in the order of the tools; returns how many were stored.

        Fewer than ``len(tools)`` means that some were edited or deleted since their text was read: those are left
        as they are, stale, for the next look.
        """
        parameters = space_of(generation) | {
            "ids": IdArray([tool.id for tool in tools]),
            "vectors": VectorArray(*chunks),
            "fingerprints": FingerprintArray([tool.fingerprint for tool in tools]),
        }
        with database_errors():
            # One statement is a transaction of its own; two more round trips for BEGIN and COMMIT buy nothing.
            statement = query("embeddings", "write", **columns_of(generation))
            written = await self._stubbornly(statement, parameters)
            if any(tool.failed_before for tool in tools):
                statement = query("embeddings", "forget_failures", **columns_of(generation))
                await self._writer.execute(statement, parameters)
        return written

    async def _stubbornly(self, statement: sql.Composed, parameters: dict[str, Any]) -> int:
        """Execute again when PostgreSQL ended the statement to resolve a deadlock with the server's own updates."""
        for _ in range(DEADLOCK_RETRIES):
            try:
                return (await self._writer.execute(statement, parameters)).rowcount
            except (errors.DeadlockDetected, errors.SerializationFailure):
                continue
        return (await self._writer.execute(statement, parameters)).rowcount

    async def record_failure(self, generation: Generation, tool: PendingTool, error: str) -> None:
        """Quarantine one tool with the service's words."""
        parameters = {
            "generation_id": generation.id,
            "fingerprint": tool.fingerprint,
            "error": error.replace("\x00", ""),
            "tool_id": tool.id,
        }
        with database_errors():
            await self._writer.execute(query("embeddings", "record_failure"), parameters)


async def learned_of(connection: psycopg.AsyncConnection, generation: Generation) -> Learned | None:
    """What earlier runs learned of the generation's service; a limit not older than a week: services change."""
    with database_errors():
        async with connection.cursor(row_factory=class_row(Learned)) as cursor:
            parameters = service_parameters(generation) | {"most": MOST_IN_A_REQUEST}
            await cursor.execute(query("embeddings", "learned"), parameters)
            return await cursor.fetchone()


async def census(connection: psycopg.AsyncConnection, generation: Generation) -> Census:
    """Count the active tools of a generation by the state of their vectors."""
    with database_errors():
        async with connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(query("embeddings", "census", **columns_of(generation)), space_of(generation))
            return Census(**always(await cursor.fetchone()))


def service_parameters(generation: Generation) -> dict[str, Any]:
    """What a service is known by."""
    return {"endpoint_url": generation.endpoint_url or "", "service_model": generation.model or ""}


def columns_of(generation: Generation) -> dict[str, sql.Composable]:
    """The identifiers of a generation's vector and fingerprint columns, for ``queries.query``."""
    return {
        "column": sql.Identifier(generation.role.column),
        "fingerprint": sql.Identifier(generation.role.fingerprint_column),
    }


def space_of(generation: Generation) -> dict[str, Any]:
    """The parameters that fingerprints of a generation are made with."""
    return {
        "generation_id": generation.id,
        "model": generation.canonical_model,
        "dimension": generation.dimension,
        "document_prefix": generation.document_prefix,
        "template_version": generation.template_version,
    }


def _pending_tool(cursor: psycopg.AsyncCursor[Any]) -> Callable[[Sequence[Any]], PendingTool]:
    """A row factory by position, in the order of the statement: half the cost of one by name."""
    return PendingTool._make


def _selection(selection: Selection) -> dict[str, Any]:
    return {
        "everything": selection.everything,
        "include_inactive": selection.include_inactive,
        "category": selection.category,
        "ids": selection.ids,
    }
