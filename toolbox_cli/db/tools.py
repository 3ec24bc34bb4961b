"""Tools as rows: list, find, switch on and off."""

from __future__ import annotations

import psycopg
from psycopg.rows import class_row, scalar_row

from toolbox_cli.db.faults import database_errors
from toolbox_cli.db.queries import query
from toolbox_cli.domain.errors import NegativeAnswerError
from toolbox_cli.domain.models import Tool, ToolSummary


class PostgresToolStore:
    def __init__(self, connection: psycopg.AsyncConnection) -> None:
        self._connection = connection

    async def list(
        self, *, category: str | None, include_inactive: bool, limit: int, offset: int
    ) -> tuple[int, list[ToolSummary]]:
        """How many tools the filters let through in all, and one page of them."""
        parameters = {
            "category": category,
            "include_inactive": include_inactive,
            "limit": limit,
            "offset": offset,
        }
        with database_errors():
            async with self._connection.cursor(row_factory=scalar_row) as counter:
                await counter.execute(query("tools", "count"), parameters)
                total = int(await counter.fetchone() or 0)
            async with self._connection.cursor(row_factory=class_row(ToolSummary)) as cursor:
                await cursor.execute(query("tools", "list"), parameters)
                return total, await cursor.fetchall()

    async def find(self, wanted: str) -> Tool:
        """A tool by name or id; NegativeAnswerError when there is none."""
        with database_errors():
            async with self._connection.cursor(row_factory=class_row(Tool)) as cursor:
                await cursor.execute(query("tools", "find"), {"wanted": wanted.replace("\x00", "")})
                tool = await cursor.fetchone()
        if tool is None:
            raise NegativeAnswerError(
                f"no tool has the id or name {wanted!r}",
                hint="`toolbox list --include-inactive` shows what there is.",
            )
        return tool

    async def set_active(self, wanted: str, *, active: bool) -> tuple[Tool, bool]:
        """Switch a tool on or off; returns it as it is now, and whether that changed anything."""
        tool = await self.find(wanted)
        with database_errors():
            cursor = await self._connection.execute(query("tools", "set_active"), {"id": tool.id, "active": active})
            changed = await cursor.fetchone() is not None
        return (await self.find(tool.name) if changed else tool), changed
