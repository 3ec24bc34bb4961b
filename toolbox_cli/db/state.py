"""What the registry looks like now, read from PostgreSQL's own catalogue: the ground of every plan."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from psycopg import errors, sql
from psycopg.rows import class_row, dict_row, scalar_row

from toolbox_cli.db.attachments import Attachments, read_attachments
from toolbox_cli.db.queries import query
from toolbox_cli.domain.errors import StateError
from toolbox_cli.domain.models import Generation, Role, VectorIndex

if TYPE_CHECKING:
    import psycopg

#: Written on the table by migration 001 when it creates it, so that a roll back to zero never drops a table that
#: somebody else made.
TABLE_COMMENT = "ToolBox registry, created by toolbox migration 001"

#: What a table must have to be a ToolBox registry (Alembic revision 001), and how PostgreSQL spells the type.
REQUIRED_COLUMNS: Mapping[str, str] = {
    "id": "integer|bigint",
    "name": "character varying.*|text",
    "description": "text|character varying.*",
    "category": "character varying.*|text",
    "tags": "json",
    "input_schema": "json",
    "output_schema": "json",
    "implementation_type": "character varying.*|text",
    "is_active": "boolean",
    "version": "character varying.*|text",
    "created_at": "timestamp.*",
    "updated_at": "timestamp.*",
    "embedding": r"vector(\(\d+\))?|public\.vector(\(\d+\))?",
}

#: How often the catalogue is read again when something in it has just been dropped.
READS = 4

_VECTOR = re.compile(r"(?:\w+\.)?vector\((\d+)\)")


@dataclass(frozen=True)
class RegistryState:
    """A snapshot; plans compute the next one from it without touching the database."""

    pgvector_version: str | None = None
    tables: frozenset[str] = frozenset()
    #: The schema that ``tools`` is in.
    schema: str = "public"
    created_by_toolbox: bool = False
    created_executions: bool = False
    columns: Mapping[str, str] = field(default_factory=dict)
    indexes: tuple[VectorIndex, ...] = ()
    #: Whether the full-text index is valid; None when there is none.
    text_index: bool | None = None
    has_functions: bool = False
    generations: Mapping[Role, Generation] = field(default_factory=dict)
    applied: tuple[str, ...] = ()
    #: When the generation that was being built was given up, if nothing was activated since.
    abandoned_at: datetime | None = None
    #: Whether yoyo's lock row is there. Who holds our advisory lock knows that its owner is dead. Read with the counts.
    lock_row: bool = False
    #: Rows that hold a vector, by column; only for columns that exist.
    vectors: Mapping[str, int] = field(default_factory=dict)
    tools: int = 0
    #: What hangs on the vector columns: views, rights, comments. Read together with the counts.
    attachments: Attachments = field(default_factory=Attachments)

    @property
    def has_tools(self) -> bool:
        return "tools" in self.tables

    def dimension_of(self, role: Role) -> int | None:
        """The dimension of a role's column; None when there is no such column, or it is of no fixed dimension."""
        match = _VECTOR.fullmatch(self.columns.get(role.column, ""))
        return int(match.group(1)) if match else None

    def indexes_on(self, role: Role) -> tuple[VectorIndex, ...]:
        return tuple(index for index in self.indexes if index.column == role.column)

    def check_registry(self) -> None:
        """Raise StateError unless ``tools`` is a ToolBox table; says which columns are not as expected."""
        if not self.has_tools:
            raise StateError("there is no table 'tools' in this database", hint="Run `toolbox migrate` to create it.")
        wrong = [
            f"{name} ({self.columns[name]})" if name in self.columns else f"{name} (missing)"
            for name, expected in REQUIRED_COLUMNS.items()
            if not re.fullmatch(expected, self.columns.get(name, ""))
        ]
        if wrong:
            raise StateError(
                f"the table 'tools' is no ToolBox registry; not as expected: {', '.join(wrong)}",
                hint="Point DATABASE_URL (or its search_path) at the registry, or at an empty database.",
            )

    def require_generation(self, role: Role) -> Generation:
        """The generation in a role; StateError when the registry has none."""
        if "embedding_generations" not in self.tables:
            self.check_registry()
            raise StateError(
                "this registry has no record of its embedding generations yet",
                hint="Run `toolbox migrate` to adopt it.",
            )
        if role not in self.generations:
            raise StateError(
                f"the registry has no {role.value} generation",
                hint="Run `toolbox status` to see what it has.",
            )
        return self.generations[role]


async def read_generations(connection: psycopg.AsyncConnection) -> dict[Role, Generation]:
    """The live generations, in one round trip; none where the registry keeps no record of them."""
    async with connection.cursor(row_factory=class_row(Generation)) as cursor:
        try:
            found = await (await cursor.execute(query("schema", "generations"))).fetchall()
        except errors.UndefinedTable:
            return {}
    return {generation.role: generation for generation in found}


async def read_state(connection: psycopg.AsyncConnection, *, count: bool = False) -> RegistryState:
    """Introspect the registry.

    ``count`` also reads what only a plan needs: how many vectors each column has (the heap, once a column), and what
    hangs on the columns.
    """
    for _ in range(READS):
        try:
            return await _read_state(connection, count=count)
        except errors.InternalError as exc:
            # PostgreSQL's own functions look at the catalogue as it is now, not as the query's snapshot has it: an
            # index that another session has just dropped is an error to them.
            if "cache lookup failed" not in str(exc):
                raise
    return await _read_state(connection, count=count)


async def _read_state(connection: psycopg.AsyncConnection, *, count: bool) -> RegistryState:
    fetched: dict[str, list[Any]] = {}
    async with connection.cursor(row_factory=dict_row) as cursor:
        for name in ("server", "tables", "columns", "functions"):
            fetched[name] = await (await cursor.execute(query("schema", name))).fetchall()
    tables = {row["name"]: row["comment"] for row in fetched["tables"]}
    schema = next((row["schema"] for row in fetched["tables"] if row["name"] == "tools"), "public")
    columns = {row["name"]: row["type"] for row in fetched["columns"]}
    pgvector_version = fetched["server"][0]["pgvector_version"]
    indexes: list[VectorIndex] = []
    if "tools" in tables and pgvector_version:
        async with connection.cursor(row_factory=class_row(VectorIndex)) as cursor_:
            indexes = await (await cursor_.execute(query("schema", "vector_indexes"))).fetchall()
    generations: list[Generation] = []
    if "embedding_generations" in tables:
        async with connection.cursor(row_factory=class_row(Generation)) as cursor__:
            generations = await (await cursor__.execute(query("schema", "generations"))).fetchall()
    abandoned_at: datetime | None = None
    vectors: dict[str, int] = {}
    applied: list[str] = []
    tools = 0
    attachments = await read_attachments(connection) if count and "tools" in tables else Attachments()
    async with connection.cursor(row_factory=scalar_row) as scalars:
        text_index = await (await scalars.execute(query("schema", "text_index"))).fetchone()
        if count and "embedding_generations" in tables:
            abandoned_at = await (await scalars.execute(query("schema", "abandoned"))).fetchone()
        lock_row = False
        if count and "yoyo_lock" in tables:
            lock_row = bool(await (await scalars.execute(query("inspection", "lock_rows"))).fetchone())
        if "_yoyo_migration" in tables:
            applied = await (await scalars.execute(query("schema", "applied"))).fetchall()
        if count and "tools" in tables:
            tools = await _one(scalars, query("schema", "count_tools"))
            for role in Role:
                if role.column in columns:
                    statement = query("schema", "count_vectors", column=sql.Identifier(role.column))
                    vectors[role.column] = await _one(scalars, statement)
    return RegistryState(
        pgvector_version=pgvector_version,
        tables=frozenset(tables),
        schema=schema,
        created_by_toolbox=tables.get("tools") == TABLE_COMMENT,
        created_executions=tables.get("tool_executions") == TABLE_COMMENT,
        columns=columns,
        indexes=tuple(indexes),
        text_index=text_index,
        has_functions=len(fetched["functions"]) == 4,
        generations={generation.role: generation for generation in generations},
        applied=tuple(applied),
        abandoned_at=abandoned_at,
        lock_row=lock_row,
        vectors=vectors,
        tools=tools,
        attachments=attachments,
    )


async def _one(cursor: psycopg.AsyncCursor[Any], statement: sql.Composed) -> int:
    value = await (await cursor.execute(statement)).fetchone()
    return int(value or 0)
