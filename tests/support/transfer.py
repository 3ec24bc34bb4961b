"""What the tests of import and export share."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from toolbox_cli.core.transfer import export_tools
from toolbox_cli.db.transfer import PostgresTransferStore
from toolbox_cli.domain.ports import SilentProgress
from toolbox_cli.domain.transfer import ImportSummary

REGISTRY = Path(__file__).parents[1] / "fixtures" / "registry_alembic_001.sql"
#: What a file carries; ids and times are the registry's own.
CARRIED = (
    "name, description, category, tags::text, input_schema::text, output_schema::text, implementation_type,"
    " implementation_code, is_active, version, metadata::text"
)


def load_registry(conninfo: str) -> None:
    """Fill an empty database with the fixture's registry: 16 tools at 1024 dimensions."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(REGISTRY.read_text(encoding="utf-8"))


class Notes(SilentProgress):
    """Progress that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.advanced = 0

    def advance(self, count: int) -> None:
        self.advanced += count

    def note(self, message: str) -> None:
        self.notes.append(message)


def lines(*entries: dict[str, Any]) -> io.BytesIO:
    return io.BytesIO("\n".join(json.dumps(entry) for entry in entries).encode())


def counts(summary: ImportSummary) -> tuple[int, int, int, int, int]:
    return (summary.created, summary.updated, summary.unchanged, summary.skipped, summary.failed)


async def rows(connection: psycopg.AsyncConnection, columns: str = "*") -> list[dict[str, Any]]:
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(f"SELECT {columns} FROM tools ORDER BY name")
        return await cursor.fetchall()


async def row(connection: psycopg.AsyncConnection, name: str) -> dict[str, Any]:
    return next(one for one in await rows(connection) if one["name"] == name)


async def empty(connection: psycopg.AsyncConnection) -> None:
    await connection.execute("TRUNCATE tools RESTART IDENTITY CASCADE")


async def exported(store: PostgresTransferStore, **options: Any) -> bytes:
    sink = io.BytesIO()
    await export_tools(sink, store, **options)
    return sink.getvalue()
