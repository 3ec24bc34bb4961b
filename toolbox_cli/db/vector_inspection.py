"""What ``verify`` needs to know of the vectors themselves: counted by looking at them, never at a stamp."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
from psycopg import sql
from psycopg.rows import class_row, scalar_row

from toolbox_cli.db.embeddings import columns_of, space_of
from toolbox_cli.db.faults import database_errors
from toolbox_cli.db.queries import always, query
from toolbox_cli.db.vectors import received
from toolbox_cli.domain.verification import Duplicates, SampledVectors, StoredSample, VectorFaults

if TYPE_CHECKING:
    from collections.abc import Sequence

    from toolbox_cli.domain.models import Generation


class PostgresVectorInspector:
    """The part of the inspector that reads vectors."""

    def __init__(self, connection: psycopg.AsyncConnection) -> None:
        self._connection = connection

    async def vector_faults(self, generation: Generation) -> VectorFaults:
        """Of every vector, active or not."""
        statement = query("vector_inspection", "vector_faults", column=sql.Identifier(generation.role.column))
        with database_errors():
            async with self._connection.cursor(row_factory=class_row(VectorFaults)) as cursor:
                await cursor.execute(statement)
                return always(await cursor.fetchone())

    async def duplicates(self, generation: Generation) -> list[Duplicates]:
        """Groups of tools of different texts with one vector, the largest first; at most a thousand groups."""
        statement = query("vector_inspection", "duplicates", **columns_of(generation))
        with database_errors():
            async with self._connection.cursor(row_factory=class_row(Duplicates)) as cursor:
                await cursor.execute(statement)
                return await cursor.fetchall()

    async def sampled_vectors(self, generation: Generation, count: int) -> SampledVectors:
        """At most ``count`` vectors of active tools, the same ones at every call."""
        statement = query("vector_inspection", "sampled_vectors", column=sql.Identifier(generation.role.column))
        with database_errors():
            async with self._connection.cursor(binary=True) as cursor:
                await cursor.execute(statement, {"count": count})
                rows = await cursor.fetchall()
        vectors = received([row[2] for row in rows], generation.dimension)
        return SampledVectors([row[0] for row in rows], [row[1] for row in rows], vectors)

    async def sample(self, generation: Generation, count: int, ids: Sequence[int] = ()) -> list[StoredSample]:
        """About ``count`` tools with fresh vectors, spread over ids and ages, the same at every call; and ``ids``."""
        statement = query("vector_inspection", "sample", **columns_of(generation))
        parameters = space_of(generation) | {"count": count, "ids": list(ids)}
        with database_errors():
            async with self._connection.cursor(row_factory=class_row(StoredSample)) as cursor:
                await cursor.execute(statement, parameters)
                return await cursor.fetchall()

    async def unsigned(self, generation: Generation) -> int:
        """Active tools with a vector and no fingerprint."""
        return await self._count("unsigned", generation)

    async def stamps_alone(self, generation: Generation) -> int:
        """Active tools with a fingerprint and no vector."""
        return await self._count("stamps_alone", generation)

    async def _count(self, name: str, generation: Generation) -> int:
        with database_errors():
            async with self._connection.cursor(row_factory=scalar_row) as cursor:
                await cursor.execute(query("vector_inspection", name, **columns_of(generation)))
                return int(await cursor.fetchone() or 0)
