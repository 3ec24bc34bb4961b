"""Facts for ``toolbox verify``: read, counted and tried, never remembered."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from toolbox_cli.db.embeddings import census, columns_of, learned_of, space_of
from toolbox_cli.db.faults import database_errors, first_line, translate
from toolbox_cli.db.index_builds import index_fault
from toolbox_cli.db.locks import LOCK_SPACE, WORKER_LOCK
from toolbox_cli.db.queries import always, query
from toolbox_cli.db.yoyo_runner import load_migrations
from toolbox_cli.domain.errors import StateError
from toolbox_cli.domain.models import Census, Generation, Role, ServerInfo
from toolbox_cli.domain.verification import IndexProgress, Sample, SchemaFacts, VectorFaults, Worker

if TYPE_CHECKING:
    from toolbox_cli.db.registry import Registry
    from toolbox_cli.db.state import RegistryState
    from toolbox_cli.domain.changes import Outline


class PostgresInspector:
    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._connection = registry.connection

    async def server(self) -> ServerInfo:
        return await self._registry.server()

    async def schema(self) -> SchemaFacts:
        state = await self._registry.state()
        pending = [file.id for file in load_migrations() if file.id not in state.applied]
        generation = state.generations.get(Role.CURRENT)
        return SchemaFacts(
            problem=_problem(state),
            applied=list(state.applied),
            pending=pending,
            column_type=state.columns.get(Role.CURRENT.column),
            column_dimension=state.dimension_of(Role.CURRENT),
            indexes=list(state.indexes_on(Role.CURRENT)),
            index_faults={
                role: fault for role, found in state.generations.items() if (fault := index_fault(state, found))
            },
            generation=generation,
            generations=list(state.generations.values()),
            all_indexes=list(state.indexes),
            orphans=[role.column for role in Role if role.column in state.columns and role not in state.generations],
        )

    async def census(self, generation: Generation) -> Census:
        return await census(self._connection, generation)

    async def vector_faults(self, generation: Generation) -> VectorFaults:
        with database_errors():
            async with self._connection.cursor(row_factory=class_row(VectorFaults)) as cursor:
                column = sql.Identifier(generation.role.column)
                await cursor.execute(query("inspection", "vector_faults", column=column))
                return always(await cursor.fetchone())

    async def unsigned(self, generation: Generation) -> int:
        with database_errors():
            cursor = await self._connection.execute(query("inspection", "unsigned", **columns_of(generation)))
            row = await cursor.fetchone()
        return int(row[0]) if row else 0

    async def try_insert(self, generation: Generation) -> str | None:
        vector = "[" + ",".join(["0.1"] * generation.dimension) + "]"
        parameters = {"name": f"toolbox-verify-{secrets.token_hex(8)}", "vector": vector}
        try:
            async with self._connection.transaction(force_rollback=True):
                await self._connection.execute(query("inspection", "try_insert"), parameters)
        except psycopg.Error as exc:
            # An index row that is too long, or a full disk, is an objection too, though psycopg sorts it under
            # OperationalError; a lost session is none.
            if self._connection.broken or self._connection.closed:
                raise translate(exc) from exc
            return first_line(exc)
        return None

    async def fresh_tool(self, generation: Generation) -> Sample | None:
        with database_errors():
            async with self._connection.cursor(row_factory=class_row(Sample)) as cursor:
                statement = query("inspection", "fresh_tool", **columns_of(generation))
                await cursor.execute(statement, space_of(generation))
                return await cursor.fetchone()

    async def workers(self) -> list[Worker]:
        """Reindex processes that are alive now, on whatever host: their locks die with them."""
        with database_errors():
            async with self._connection.cursor(row_factory=class_row(Worker)) as cursor:
                await cursor.execute(query("locks", "holders"), {"space": LOCK_SPACE, "key": WORKER_LOCK})
                return await cursor.fetchall()

    async def index_build(self, generation: Generation) -> IndexProgress | None:
        parameters = {"index": generation.role.index_name}
        with database_errors():
            async with self._connection.cursor(row_factory=class_row(IndexProgress)) as cursor:
                await cursor.execute(query("indexes", "build_under_way"), parameters)
                return await cursor.fetchone()

    async def speed(self, generation: Generation) -> float | None:
        learned = await learned_of(self._connection, generation)
        return learned.tools_per_second if learned else None

    async def cutover_outline(self) -> Outline:
        return (await self._registry.plan_cutover()).outline


def _problem(state: RegistryState) -> str | None:
    try:
        state.check_registry()
    except StateError as exc:
        return exc.message
    return None
