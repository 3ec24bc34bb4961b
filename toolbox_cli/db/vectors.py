"""An array of vectors as one binary parameter.

Packing the whole array with numpy and sending ``UPDATE … FROM unnest($1, $2)`` wrote 1.3 × the rows of executemany
and 5 to 20 × those of text parameters in the same run, so this one type gets its own dumper; everything else goes
through pgvector's.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np
from psycopg.adapt import Dumper
from psycopg.pq import Format

from toolbox_cli.db.queries import always, query

if TYPE_CHECKING:
    import psycopg

    from toolbox_cli.domain.ports import Vectors


class VectorArray:
    """Float32 vectors of shape (n, dimension), to be sent as PostgreSQL's ``vector[]``."""

    def __init__(self, vectors: Vectors) -> None:
        self.vectors = vectors


def pack(vectors: Vectors, element_oid: int) -> bytes:
    """PostgreSQL's binary array of pgvector's binary vectors.

    Array header: dimensions, has-nulls flag, element type, length, lower bound (``array_recv``); each element: its
    length in bytes, then int16 dimension, int16 unused, big-endian float4 components (``vector_recv``).
    """
    count, dimension = vectors.shape
    element = np.dtype(
        [("length", ">i4"), ("dimension", ">i2"), ("unused", ">i2"), ("components", ">f4", (dimension,))]
    )
    packed = np.empty(count, dtype=element)
    packed["length"] = 4 + 4 * dimension
    packed["dimension"] = dimension
    packed["unused"] = 0
    packed["components"] = vectors
    header = struct.pack("!iiIii", 1, 0, element_oid, count, 1)
    return header + packed.tobytes()


async def register_vector_array(connection: psycopg.AsyncConnection) -> None:
    """Teach a session to send VectorArray: pgvector's type numbers are different in every database."""
    row = always(await (await connection.execute(query("embeddings", "vector_oids"))).fetchone())
    element_oid, array_oid = row

    class VectorArrayDumper(Dumper):
        format = Format.BINARY
        oid = array_oid

        def dump(self, obj: Any) -> bytes:
            return pack(obj.vectors, element_oid)

    connection.adapters.register_dumper(VectorArray, VectorArrayDumper)
