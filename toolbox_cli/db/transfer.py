"""Tools in bulk, into the table ``tools`` and out of it."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import errors as pg
from psycopg.rows import class_row, kwargs_row
from psycopg.types.json import set_json_loads

from toolbox_cli.db.faults import database_errors, first_line
from toolbox_cli.db.queries import query
from toolbox_cli.domain.errors import StateError
from toolbox_cli.domain.models import Tool
from toolbox_cli.domain.transfer import (
    TOOL_FIELDS,
    BatchRefusedError,
    ExportTool,
    NewTool,
    OnConflict,
    Outcome,
    changes,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

#: Tools read at once. A vector of 16,000 dimensions is some 200 kB as text.
PAGE = 500
PAGE_WITH_EMBEDDINGS = 50
_ROUNDS = 5


class PostgresTransferStore:
    """``TransferStore`` on a session in autocommit mode; each batch is a transaction of its own."""

    def __init__(self, connection: psycopg.AsyncConnection) -> None:
        self._connection = connection

    async def upsert(
        self, tools: Sequence[NewTool], *, on_conflict: OnConflict, dry_run: bool = False
    ) -> list[Outcome]:
        """As ``TransferStore.upsert``: all or none, in the order of ``tools``, whose names are distinct."""
        outcomes: dict[str, Outcome] = {}
        with database_errors(), _refusals():
            if dry_run:
                await self._round(tools, on_conflict, outcomes, write=False)
            else:
                async with self._connection.transaction():
                    await self._write(tools, on_conflict, outcomes)
        return [outcomes[tool.name] for tool in tools]

    async def tools(self, *, with_embeddings: bool = False) -> AsyncIterator[ExportTool]:
        """As ``TransferStore.tools``: keyset pages, no transaction is open between them."""
        model = await self._current_model() if with_embeddings else None
        statement = query("transfer", "export_page_with_embeddings" if with_embeddings else "export_page")
        limit = PAGE_WITH_EMBEDDINGS if with_embeddings else PAGE

        def to_tool(*, embedding: str | None = None, **columns: Any) -> ExportTool:
            if embedding is None:
                return ExportTool(**columns)
            return ExportTool(**columns, embedding=json.loads(embedding), embedding_model=model)

        after = 0
        while True:
            with database_errors():
                async with self._connection.cursor(row_factory=kwargs_row(to_tool)) as cursor:
                    set_json_loads(_loads, cursor)
                    await cursor.execute(statement, {"after": after, "limit": limit})
                    page = await cursor.fetchall()
            for tool in page:
                yield tool
            if len(page) < limit:
                return
            after = page[-1].id

    async def _write(self, tools: Sequence[NewTool], on_conflict: OnConflict, outcomes: dict[str, Outcome]) -> None:
        # A name that another session registers between our look and our insert is looked at again. That ends
        # at the second round unless somebody also deletes.
        remaining = list(tools)
        for _ in range(_ROUNDS):
            await self._round(remaining, on_conflict, outcomes, write=True)
            remaining = [tool for tool in remaining if tool.name not in outcomes]
            if not remaining:
                return
        raise BatchRefusedError("another session keeps changing it")

    async def _round(
        self, tools: Sequence[NewTool], on_conflict: OnConflict, outcomes: dict[str, Outcome], *, write: bool
    ) -> None:
        """Look at what is there, decide, and write unless told not to. Fills ``outcomes``."""
        locked = write and on_conflict == "update"
        existing = await self._existing([tool.name for tool in tools], locked=locked)
        new: list[NewTool] = []
        changed: list[dict[str, Any]] = []
        for tool in tools:
            row = existing.get(tool.name)
            if row is None:
                new.append(tool)
            elif on_conflict == "skip":
                outcomes[tool.name] = Outcome.SKIPPED
            elif on_conflict == "error":
                outcomes[tool.name] = Outcome.EXISTS
            elif values := changes(row, tool):
                outcomes[tool.name] = Outcome.UPDATED
                changed.append({"id": row.id, "changed": list(values), **values})
            else:
                outcomes[tool.name] = Outcome.UNCHANGED
        if not write:
            outcomes.update({tool.name: Outcome.CREATED for tool in new})
            return
        if changed:
            await self._connection.execute(query("transfer", "update_tools"), {"tools": _dumps(changed)})
        if new:
            rows = [tool.model_dump(include=set(TOOL_FIELDS)) for tool in new]
            cursor = await self._connection.execute(query("transfer", "insert_tools"), {"tools": _dumps(rows)})
            outcomes.update({name: Outcome.CREATED for (name,) in await cursor.fetchall()})

    async def _existing(self, names: list[str], *, locked: bool) -> dict[str, Tool]:
        statement = query("transfer", "tools_by_name_locked" if locked else "tools_by_name")
        async with self._connection.cursor(row_factory=class_row(Tool)) as cursor:
            set_json_loads(_loads, cursor)
            await cursor.execute(statement, {"names": names})
            return {tool.name: tool for tool in await cursor.fetchall()}

    async def _current_model(self) -> str | None:
        with database_errors():
            cursor = await self._connection.execute(query("transfer", "has_generations"))
            row = await cursor.fetchone()
            if row is None or not row[0]:
                return None
            cursor = await self._connection.execute(query("transfer", "current_model"))
            row = await cursor.fetchone()
            return None if row is None else row[0]


@contextmanager
def _refusals() -> Iterator[None]:
    """Tell what is wrong with the values from what is wrong with the database.

    A deadlock or a serialization failure counts as the former: tried one by one the tools go through.
    """
    try:
        yield
    except (
        psycopg.DataError,
        psycopg.IntegrityError,
        pg.ProgramLimitExceeded,
        pg.RaiseException,
        pg.DeadlockDetected,
        pg.SerializationFailure,
    ) as exc:
        raise BatchRefusedError(first_line(exc)) from exc


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _loads(data: str | bytes) -> Any:
    """A json column's value; PostgreSQL admits depths and numbers that Python's reader does not."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as exc:
        shown = data[:60] if isinstance(data, str) else bytes(data[:60]).decode("utf-8", "replace")
        raise StateError(
            f"a json column of `tools` holds a value that cannot be read: {shown!r}…",
            hint="Correct that tool's schema, tags or metadata in the database, then run this again.",
        ) from exc
