"""Facts for ``toolbox verify``: read, counted and tried, never remembered."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import psycopg
from psycopg.rows import class_row

from toolbox_cli.db.embeddings import census, learned_of, service_parameters
from toolbox_cli.db.faults import database_errors, first_line, translate
from toolbox_cli.db.indexes import index_fault
from toolbox_cli.db.locks import LOCK_SPACE, SCHEMA_LOCK, WORKER_LOCK
from toolbox_cli.db.queries import always, query
from toolbox_cli.db.vector_inspection import PostgresVectorInspector
from toolbox_cli.db.yoyo_runner import load_migrations
from toolbox_cli.domain.errors import StateError
from toolbox_cli.domain.models import Census, Generation, Role, ServerInfo
from toolbox_cli.domain.verification import IndexProgress, Leftovers, SchemaFacts, ServerSettings, Worker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from toolbox_cli.db.registry import Registry
    from toolbox_cli.db.state import RegistryState
    from toolbox_cli.domain.changes import Outline
    from toolbox_cli.domain.profiles import ServiceProfile
    from toolbox_cli.domain.reindexing import Learned


class PostgresInspector(PostgresVectorInspector):
    def __init__(self, registry: Registry) -> None:
        super().__init__(registry.connection)
        self._registry = registry

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
            text_index=state.text_index,
            orphans=[role.column for role in Role if role.column in state.columns and role not in state.generations],
        )

    async def census(self, generation: Generation) -> Census:
        return await census(self._connection, generation)

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

    async def server_settings(self) -> ServerSettings:
        with database_errors():
            async with self._connection.cursor(row_factory=class_row(ServerSettings)) as cursor:
                await cursor.execute(query("inspection", "server_settings"))
                return always(await cursor.fetchone())

    async def leftovers(self) -> Leftovers:
        """What commands that were killed have left, by whom it is cleared up."""
        state = await self._registry.state()
        found: list[tuple[str, str]] = []
        with database_errors():
            # What a command at work holds is not left over; its lock dies with it.
            parameters = {"space": LOCK_SPACE, "key": SCHEMA_LOCK}
            at_work = await (await self._connection.execute(query("locks", "holders"), parameters)).fetchone()
            if "embedding_changes" in state.tables and not at_work:
                found.append(("the change log of a cutover that was killed", "toolbox migrate"))
            if (
                "yoyo_lock" in state.tables
                and not at_work
                and always(await (await self._connection.execute(query("inspection", "lock_rows"))).fetchone())[0]
            ):
                found.append(("a lock row of a migration that was killed (yoyo_lock)", "toolbox migrate"))
            rows = await (await self._connection.execute(query("inspection", "odd_indexes"))).fetchall()
        if state.text_index is False:
            found.append(("the text index is invalid: its build was cancelled", "toolbox migrate"))
        return Leftovers(found=found + _odd_indexes(rows))

    async def learned(self, generation: Generation) -> Learned | None:
        return await learned_of(self._connection, generation)

    async def keep_profile(self, generation: Generation, profile: ServiceProfile) -> None:
        parameters = service_parameters(generation) | {"profile": profile.model_dump_json()}
        with database_errors():
            await self._connection.execute(query("embeddings", "keep_profile"), parameters)

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

    async def cutover_outline(self) -> Outline:
        return (await self._registry.plan_cutover()).outline


def _problem(state: RegistryState) -> str | None:
    try:
        state.check_registry()
    except StateError as exc:
        return exc.message
    return None


def _odd_indexes(rows: Sequence[tuple[str, str, bool]]) -> list[tuple[str, str]]:
    """Invalid indexes, and those beyond one on a column; the valid ones of a column come first."""
    roles = {role.column: role for role in Role}
    found: list[tuple[str, str]] = []
    kept: set[str] = set()
    for name, column, valid in rows:
        role = roles.get(column)
        if role is None:
            continue
        remedy = "toolbox migrate" if role is Role.CURRENT else f"toolbox reindex --generation {role.value}"
        if not valid:
            found.append((f"{name} is invalid: its build was cancelled or failed", remedy))
        elif column in kept:
            found.append((f"{name} is a second vector index on {column}", f'DROP INDEX "{name}"'))
        kept.add(column)
    return found
