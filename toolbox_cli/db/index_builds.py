"""Building vector indexes while the registry stays open, with what memory and workers the server can give."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psycopg
from psycopg import errors as pg
from psycopg import sql

from toolbox_cli.db.drafts import Statement
from toolbox_cli.db.faults import database_errors
from toolbox_cli.db.indexes import create_index, drop_index, shape_for, unfit_reason
from toolbox_cli.db.queries import always, query
from toolbox_cli.domain.models import Generation, IndexMethod, Role, Target

if TYPE_CHECKING:
    from toolbox_cli.db.state import RegistryState
    from toolbox_cli.domain.ports import Progress

#: What an element of the graph takes beside its vector: neighbours of all layers and the element itself (m = 16).
GRAPH_BYTES = 1_000
#: Bytes a component, by the type that is indexed.
COMPONENT_BYTES = {"vector": 4.0, "halfvec": 2.0, "bit": 0.125}
MOST_MEMORY = 2 * 1024**3


@dataclass(frozen=True)
class IndexBuild:
    """Statements that run one by one, outside of a transaction: CONCURRENTLY allows no other way.

    A build waits for older transactions to end; it takes no lock that readers or writers would notice.
    """

    statements: tuple[Statement, ...] = field(default=())
    rows: int = 0
    dimension: int = 0

    async def execute(self, conninfo: str, progress: Progress) -> float:
        """Carry it out; returns the seconds that it took."""
        if not self.statements:
            return 0.0
        started = time.perf_counter()
        with database_errors():
            async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
                await self._tune(connection)
                for statement in self.statements:
                    await self._run(connection, conninfo, statement, progress)
        return time.perf_counter() - started

    async def _tune(self, connection: psycopg.AsyncConnection) -> None:
        """Memory for the whole graph if the server has it: beyond it a build is five times slower."""
        row = always(await (await connection.execute(query("indexes", "server_limits"))).fetchone())
        present, cache, shared_memory_type = row
        element = shape_for(self.dimension).element if self.dimension else "vector"
        needed = int(self.rows * (self.dimension * COMPONENT_BYTES[element] + GRAPH_BYTES) * 1.1)
        memory = max(present, min(needed, cache // 4, MOST_MEMORY))
        await connection.execute(query("indexes", "set_memory"), {"memory": f"{memory // 1024}kB"})
        if shared_memory_type == "posix" and _is_local(connection) and _free_shared_memory() < memory:
            # Workers of a parallel build share the graph; containers often have 64 MB for that.
            await connection.execute(query("indexes", "no_workers"))

    async def _run(
        self, connection: psycopg.AsyncConnection, conninfo: str, statement: Statement, progress: Progress
    ) -> None:
        watcher = asyncio.create_task(_watch(conninfo, connection.info.backend_pid, self.rows, progress))
        try:
            await connection.execute(statement.sql)
        except pg.DiskFull:
            # "could not resize shared memory segment": the build works alone, and what it left is invalid.
            progress.note("the server has too little shared memory for parallel workers: building with none")
            await connection.execute(query("indexes", "no_workers"))
            if statement.replaces is not None:
                await connection.execute(drop_index(statement.replaces, concurrently=True))
            await connection.execute(statement.sql)
        finally:
            watcher.cancel()
            # Watching is a courtesy: that it failed (a server at its connection limit) must not fail the build.
            with suppress(asyncio.CancelledError, psycopg.Error):
                await watcher
            progress.finish()


async def _watch(conninfo: str, process: int, rows: int, progress: Progress) -> None:
    """Report how far a build is, from PostgreSQL's own progress view."""
    await asyncio.sleep(0.5)
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
        done = 0
        phase = ""
        while True:
            row = await (await connection.execute(query("indexes", "progress"), {"pid": process})).fetchone()
            if row is not None:
                if row[0] != phase:
                    phase = row[0]
                    progress.start(f"index: {phase}", rows or None)
                    done = 0
                progress.advance(max(0, row[1] - done))
                done = max(done, row[1])
            await asyncio.sleep(0.5)


def _is_local(connection: psycopg.AsyncConnection) -> bool:
    return connection.info.host.startswith("/") or connection.info.host in ("localhost", "127.0.0.1", "::1")


def _free_shared_memory() -> int:
    try:
        found = os.statvfs("/dev/shm")  # noqa: S108 - the kernel's shared memory, not a temporary file
    except OSError:
        return 0
    return found.f_bavail * found.f_frsize


def plan_index(
    state: RegistryState, target: Target | None, generation: Generation | None, role: Role = Role.CURRENT
) -> IndexBuild | None:
    """What makes a column's index fit: nothing, a build, or a replacement.

    The method is the option's, else the generation's, else what is there, else HNSW. An ivfflat index on an empty
    column would learn its lists from nothing, so it waits for the load.
    """
    dimension = state.dimension_of(role)
    if dimension is None:
        return None
    wanted = target.index_method if target else None
    method = wanted or (generation.index_method if generation else None) or _method_of(state, role)
    return IndexBuild(index_statements(state, role, dimension, method), state.vectors.get(role.column, 0), dimension)


def rebuild_index(state: RegistryState, generation: Generation) -> IndexBuild:
    """Replace a valid index: the new one under another name first, so that searches have one all the time.

    Killed in between, it leaves two, or one under the other name, and both serve.
    """
    role, dimension = generation.role, generation.dimension
    new = f"{role.index_name}_new"
    rows = state.vectors.get(role.column, 0)
    build = create_index(role, dimension, generation.index_method, concurrently=True, rows=rows, name=new)
    statements = [
        Statement(drop_index(new, concurrently=True), "what an interrupted build left"),
        Statement(build, f"build the {generation.index_method} index anew", replaces=new),
        *(
            Statement(drop_index(index.name, concurrently=True), f"drop {index.name}")
            for index in state.indexes_on(role)
            if index.name != new
        ),
        Statement(
            sql.SQL("ALTER INDEX {} RENAME TO {}").format(sql.Identifier(new), sql.Identifier(role.index_name)),
            "give it its name",
        ),
    ]
    return IndexBuild(tuple(statements), rows, dimension)


def is_complete(state: RegistryState, generation: Generation) -> bool:
    """Whether the column of a generation has the index that it asks for, and no other. Needs no counts."""
    found = state.indexes_on(generation.role)
    if generation.index_method == "none":
        return not found
    fit = [index for index in found if unfit_reason(index, generation.dimension, generation.index_method) is None]
    return len(found) == len(fit) == 1


def index_statements(state: RegistryState, role: Role, dimension: int, method: IndexMethod) -> tuple[Statement, ...]:
    """Drop what does not fit, build what is missing."""
    statements: list[Statement] = []
    fit = False
    for index in state.indexes_on(role):
        reason = unfit_reason(index, dimension, method) if method != "none" else "no index is wanted"
        if reason is None and not fit:
            fit = True
        else:
            why = f"drop {index.name}: {reason or 'one is enough'}"
            statements.append(Statement(drop_index(index.name, concurrently=True), why))
    rows = state.vectors.get(role.column, 0)
    if not fit and method != "none" and (method != "ivfflat" or rows > 0):
        build = create_index(role, dimension, method, concurrently=True, rows=rows)
        purpose = f"build the {method} index on {role.column}"
        statements.append(Statement(build, purpose, replaces=role.index_name))
    return tuple(statements)


def _method_of(state: RegistryState, role: Role) -> IndexMethod:
    for index in state.indexes_on(role):
        if index.method == "ivfflat":
            return "ivfflat"
    return "hnsw"
