"""Search by words through PostgreSQL's full-text index. Needs no vector and no embedding service."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql
from psycopg.rows import class_row, scalar_row

from toolbox_cli.db.faults import database_errors
from toolbox_cli.db.queries import always, query
from toolbox_cli.db.text_index import CONFIGURATION, lexemes
from toolbox_cli.domain.models import SearchHit

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from toolbox_cli.domain.searching import SearchFilter

#: A word that more than this share of the tools have says next to nothing about any of them: leaving those out made no
#: difference to the quality. It saves time where there are many tools: so many are looked up whatever their share is,
#: and no more than so many.
COMMON_SHARE, FEW, MOST_COMMON = 0.1, 1_000, 20_000
#: Few tools are counted, many estimated.
COUNT_UP_TO = 20_000


class PostgresTextSearch:
    """Words only; ``PostgresSearchStore`` adds vectors."""

    def __init__(self, connection: psycopg.AsyncConnection) -> None:
        self._connection = connection

    async def has_text_index(self) -> bool:
        with database_errors():
            async with self._connection.cursor(row_factory=scalar_row) as cursor:
                await cursor.execute(query("schema", "text_index"))
                return bool(await cursor.fetchone())

    async def coverage(
        self, question: str, where: SearchFilter, limit: int, also: Sequence[int] = (), *, alone: bool = False
    ) -> dict[int, float]:
        """Which share of the question's words tools have, from above 0 to 1: the ``limit`` best, best first, and those
        of ``also`` that have any.

        Words that very many tools have do not count, unless the words are ``alone`` and there are no rarer ones.
        """
        parameters = filters_of(where) | {
            "question": question.replace("\x00", ""),
            "ids": list(also),
            "limit": limit,
            "enough": COUNT_UP_TO,
            "alone": alone,
        }
        parts = {"configuration": sql.Literal(CONFIGURATION), "lexemes": lexemes("t")}
        with database_errors():
            counted = await self._connection.execute(query("text_search", "collection"), parameters, prepare=False)
            tools = int(always(await counted.fetchone())[0])
            parameters |= {"collection": tools, "common": min(max(int(COMMON_SHARE * tools), FEW), MOST_COMMON)}
            statement = query("text_search", "coverage", **parts)
            cursor = await self._connection.execute(statement, parameters, prepare=False)
            return {tool_id: float(coverage) for tool_id, coverage, _ in await cursor.fetchall()}

    async def categories(self, *, include_inactive: bool) -> list[str]:
        with database_errors():
            async with self._connection.cursor(row_factory=scalar_row) as cursor:
                await cursor.execute(query("text_search", "categories"), {"include_inactive": include_inactive})
                return await cursor.fetchall()

    async def active_names(self, names: Iterable[str]) -> set[str]:
        with database_errors():
            async with self._connection.cursor(row_factory=scalar_row) as cursor:
                await cursor.execute(query("text_search", "active_names"), {"names": list(names)})
                return set(await cursor.fetchall())

    async def described(self, ids: Sequence[int]) -> list[SearchHit]:
        """Tools by id, in the order of ``ids``, without a similarity."""
        return await self._by_id(query("text_search", "described"), {"ids": list(ids)}, ids)

    async def _by_id(self, statement: sql.Composed, parameters: dict[str, Any], ids: Sequence[int]) -> list[SearchHit]:
        with database_errors():
            async with self._connection.cursor(row_factory=class_row(SearchHit)) as cursor:
                await cursor.execute(statement, parameters)
                found = {hit.id: hit for hit in await cursor.fetchall()}
        return [found[tool_id] for tool_id in ids if tool_id in found]


def filters_of(where: SearchFilter) -> dict[str, Any]:
    """The parameters that every search statement filters by.

    Such a statement is never prepared: a session that asks often would soon get a plan for whatever may be asked, which
    reads every tool. Two rare tags of 100,000 tools: 163 ms a search, and 3.5 ms with plans of its own.
    """
    return {
        "include_inactive": where.include_inactive,
        "category": where.category,
        "tags": json.dumps(list(where.tags)) if where.tags else None,
    }
