"""Arrays of ids, fingerprints and vectors as binary parameters, packed by numpy.

Packing whole arrays and sending ``UPDATE … FROM unnest($1, $2, $3)`` wrote 1.3 × the rows of executemany and 5 to 20 ×
those of text parameters in the same run, so these types get their own dumper; everything else goes through psycopg's
and pgvector's.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from psycopg.adapt import Dumper
from psycopg.pq import Format

from toolbox_cli.db.queries import always, query

if TYPE_CHECKING:
    import psycopg

    from toolbox_cli.domain.ports import Vectors

#: PostgreSQL's type numbers of bigint, bytea and their arrays (pg_type.dat; they never change).
_BIGINT, _BIGINTS = 20, 1016
_BYTEA, _BYTEAS = 17, 1001
_HEADER = struct.Struct("!iiIii")


class IdArray:
    """Tool ids, to be sent as ``bigint[]``."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids = ids


class FingerprintArray:
    """Fingerprints of one length, to be sent as ``bytea[]``."""

    def __init__(self, fingerprints: Sequence[bytes]) -> None:
        self.fingerprints = fingerprints


class VectorArray:
    """Float32 vectors in chunks of shape (n, dimension), to be sent as one ``vector[]`` in the order of the chunks."""

    def __init__(self, *chunks: Vectors) -> None:
        self.chunks = chunks


def _array(element_type: int, count: int, element: np.dtype[Any]) -> tuple[bytearray, np.ndarray[Any, Any]]:
    """An array of ``count`` equal elements as ``array_recv`` reads it, and a view into its elements to be filled.

    Header: number of dimensions, has-nulls flag, element type, length, lower bound.
    """
    buffer = bytearray(_HEADER.size + count * element.itemsize)
    _HEADER.pack_into(buffer, 0, 1, 0, element_type, count, 1)
    return buffer, np.frombuffer(buffer, dtype=element, offset=_HEADER.size)


def pack_vectors(chunks: Sequence[Vectors], element_type: int) -> bytearray:
    """pgvector's binary vectors (``vector_recv``): byte length, int16 dimension, int16 unused, big-endian float4."""
    count, dimension = sum(len(chunk) for chunk in chunks), chunks[0].shape[1]
    element = np.dtype(
        [("length", ">i4"), ("dimension", ">i2"), ("unused", ">i2"), ("components", ">f4", (dimension,))]
    )
    buffer, elements = _array(element_type, count, element)
    elements["length"] = 4 + 4 * dimension
    elements["dimension"] = dimension
    start = 0
    for chunk in chunks:
        elements["components"][start : start + len(chunk)] = chunk
        start += len(chunk)
    return buffer


def received(sent: Sequence[bytes], dimension: int) -> Vectors:
    """What ``vector_send`` answered, as float32 of shape (len(sent), dimension)."""
    joined = np.frombuffer(b"".join(sent), dtype=np.dtype([("head", ">i4"), ("components", ">f4", (dimension,))]))
    return joined["components"].astype(np.float32)


def pack_ids(ids: Sequence[int]) -> bytearray:
    buffer, elements = _array(_BIGINT, len(ids), np.dtype([("length", ">i4"), ("value", ">i8")]))
    elements["length"] = 8
    elements["value"] = ids
    return buffer


def pack_fingerprints(fingerprints: Sequence[bytes]) -> bytearray:
    size = len(fingerprints[0])
    buffer, elements = _array(_BYTEA, len(fingerprints), np.dtype([("length", ">i4"), ("value", np.uint8, (size,))]))
    elements["length"] = size
    elements["value"] = np.frombuffer(b"".join(fingerprints), dtype=np.uint8).reshape(-1, size)
    return buffer


async def register_arrays(connection: psycopg.AsyncConnection) -> None:
    """Teach a session to send these arrays: pgvector's type numbers are different in every database."""
    row = always(await (await connection.execute(query("embeddings", "vector_oids"))).fetchone())
    element_type, array_type = row

    class VectorArrayDumper(Dumper):
        format = Format.BINARY
        oid = array_type

        def dump(self, obj: Any) -> bytearray:
            return pack_vectors(obj.chunks, element_type)

    class IdArrayDumper(Dumper):
        format = Format.BINARY
        oid = _BIGINTS

        def dump(self, obj: Any) -> bytearray:
            return pack_ids(obj.ids)

    class FingerprintArrayDumper(Dumper):
        format = Format.BINARY
        oid = _BYTEAS

        def dump(self, obj: Any) -> bytearray:
            return pack_fingerprints(obj.fingerprints)

    connection.adapters.register_dumper(VectorArray, VectorArrayDumper)
    connection.adapters.register_dumper(IdArray, IdArrayDumper)
    connection.adapters.register_dumper(FingerprintArray, FingerprintArrayDumper)
