"""Building the current column's vector index while the registry stays open."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psycopg

from toolbox_cli.db.faults import database_errors
from toolbox_cli.db.indexes import create_index, drop_index, unfit_reason
from toolbox_cli.db.plans import Statement
from toolbox_cli.domain.models import Generation, IndexMethod, Role, Target

if TYPE_CHECKING:
    from toolbox_cli.db.state import RegistryState
    from toolbox_cli.domain.ports import Progress


@dataclass(frozen=True)
class IndexBuild:
    """Statements that run one by one, outside of a transaction: CONCURRENTLY allows no other way."""

    statements: tuple[Statement, ...] = field(default=())

    async def execute(self, conninfo: str, progress: Progress) -> None:
        """A build waits for older transactions to end; it takes no lock that readers or writers would notice."""
        if not self.statements:
            return
        with database_errors():
            async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
                for statement in self.statements:
                    progress.note(statement.purpose)
                    await connection.execute(statement.sql)


def plan_index(state: RegistryState, target: Target, generation: Generation | None) -> IndexBuild | None:
    """What makes the current column's index fit: nothing, a build, or a replacement.

    The method is the option's, else the generation's, else what is there, else HNSW. An ivfflat index on an empty
    column would learn its lists from nothing, so it waits for the load.
    """
    dimension = state.dimension_of(Role.CURRENT)
    if dimension is None:
        return None
    method = target.index_method or (generation.index_method if generation else None) or _method_of(state)
    return IndexBuild(index_statements(state, Role.CURRENT, dimension, method))


def index_statements(state: RegistryState, role: Role, dimension: int, method: IndexMethod) -> tuple[Statement, ...]:
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
        statements.append(Statement(build, f"build the {method} index on {role.column}"))
    return tuple(statements)


def _method_of(state: RegistryState) -> IndexMethod:
    for index in state.indexes_on(Role.CURRENT):
        if index.method == "ivfflat":
            return "ivfflat"
    return "hnsw"
