"""Vectors in and out of a generation's column: census, what is pending, compare-and-swap writes, quarantine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql
from psycopg.rows import class_row, dict_row

from toolbox_cli.db.faults import database_errors
from toolbox_cli.db.locks import LOCK_SPACE, registry_lock
from toolbox_cli.db.queries import always, query
from toolbox_cli.db.vectors import VectorArray, register_vector_array
from toolbox_cli.domain.errors import NegativeAnswerError
from toolbox_cli.domain.models import Census, Generation, PendingTool
from toolbox_cli.domain.reindexing import RANGE_SIZE, RangeScope, Scope, Selection

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from toolbox_cli.domain.ports import Vectors

#: Second lock space, one key per range of ids ("tooR").
RANGE_SPACE = LOCK_SPACE - 0x6C + 0x52


class PostgresEmbeddingStore:
    """Two sessions: ``reader`` pages through what is pending, ``writer`` holds the locks and writes.

    The writer's session is also the one that holds the advisory locks, so a worker that lost its locks has by the
    same event lost its means to write: no fencing token is needed.
    """

    @classmethod
    async def create(
        cls, reader: psycopg.AsyncConnection, writer: psycopg.AsyncConnection, wait_timeout: float
    ) -> PostgresEmbeddingStore:
        """Prepare the writer's session for binary vectors. The database must have pgvector."""
        with database_errors():
            await register_vector_array(writer)
        return cls(reader, writer, wait_timeout)

    def __init__(self, reader: psycopg.AsyncConnection, writer: psycopg.AsyncConnection, wait_timeout: float) -> None:
        self._reader = reader
        self._writer = writer
        self._wait_timeout = wait_timeout

    def shared_lock(self) -> AbstractAsyncContextManager[None]:
        """Keeps the schema and the generations as they are while vectors are written."""
        return registry_lock(self._writer, wait_seconds=self._wait_timeout, shared=True)

    async def census(self, generation: Generation) -> Census:
        return await census(self._reader, generation)

    async def scope(self, generation: Generation, selection: Selection) -> Scope:
        """Count what a run with this selection would do."""
        with database_errors():
            async with self._reader.cursor(row_factory=class_row(RangeScope)) as cursor:
                statement = query("embeddings", "scope", **columns_of(generation))
                parameters = space_of(generation) | _selection(selection) | {"range_size": RANGE_SIZE}
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

    async def pending(self, generation: Generation, selection: Selection, number: int) -> list[PendingTool]:
        """Tools of a range of ids whose vectors have to be made, in the order of their ids."""
        bounds = {"first": number * RANGE_SIZE, "past": (number + 1) * RANGE_SIZE}
        parameters = space_of(generation) | _selection(selection) | bounds
        with database_errors():
            async with self._reader.cursor(row_factory=class_row(PendingTool)) as cursor:
                await cursor.execute(query("embeddings", "pending", **columns_of(generation)), parameters)
                return await cursor.fetchall()

    async def claim(self, number: int) -> bool:
        """Take a range of ids for this worker; False when another live worker has it."""
        with database_errors():
            cursor = await self._writer.execute(
                query("embeddings", "try_range"), {"space": RANGE_SPACE, "range": number}
            )
            row = await cursor.fetchone()
        return bool(row and row[0])

    async def release(self, number: int) -> None:
        with database_errors():
            await self._writer.execute(query("embeddings", "release_range"), {"space": RANGE_SPACE, "range": number})

    async def write(self, generation: Generation, tools: Sequence[PendingTool], vectors: Vectors) -> int:
        """Store vectors, float32 of shape (len(tools), dimension), in one transaction; returns how many were stored.

        Fewer than ``len(tools)`` means that some were edited or deleted since their text was read: those are left
        as they are, stale, for the next look.
        """
        ids = [tool.id for tool in tools]
        parameters = space_of(generation) | {
            "ids": ids,
            "vectors": VectorArray(vectors),
            "fingerprints": [tool.fingerprint for tool in tools],
        }
        with database_errors():
            async with self._writer.transaction(), self._writer.cursor() as cursor:
                await cursor.execute(query("embeddings", "write", **columns_of(generation)), parameters)
                written = [row[0] for row in await cursor.fetchall()]
                if any(tool.failed_before for tool in tools):
                    forgotten = {"generation_id": generation.id, "ids": written}
                    await cursor.execute(query("embeddings", "forget_failures"), forgotten)
        return len(written)

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


async def census(connection: psycopg.AsyncConnection, generation: Generation) -> Census:
    """Count the active tools of a generation by the state of their vectors."""
    with database_errors():
        async with connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(query("embeddings", "census", **columns_of(generation)), space_of(generation))
            return Census(**always(await cursor.fetchone()))


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


def _selection(selection: Selection) -> dict[str, Any]:
    return {
        "everything": selection.everything,
        "include_inactive": selection.include_inactive,
        "category": selection.category,
        "ids": selection.ids,
    }
