"""Export from PostgreSQL, and the way back."""

from __future__ import annotations

import asyncio
import io
import json
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.transfer import CARRIED, Notes, counts, empty, exported, load_registry, rows

from toolbox_cli.core.catalog_data import open_sample
from toolbox_cli.core.transfer import export_tools, import_tools
from toolbox_cli.db.connection import connect
from toolbox_cli.db.transfer import PostgresTransferStore
from toolbox_cli.domain.errors import InvalidUsageError, StateError
from toolbox_cli.domain.transfer import NewTool


@pytest.fixture
def registry(empty_database: str) -> str:
    """The conninfo of the fixture's registry: 16 tools."""
    load_registry(empty_database)
    return empty_database


@pytest.fixture
async def connection(registry: str) -> AsyncIterator[psycopg.AsyncConnection]:
    opened = await connect(registry)
    yield opened
    await opened.close()


@pytest.fixture
def store(connection: psycopg.AsyncConnection) -> PostgresTransferStore:
    return PostgresTransferStore(connection)


async def test_export_and_import_give_equal_rows(
    connection: psycopg.AsyncConnection, store: PostgresTransferStore
) -> None:
    with open_sample() as source:
        await import_tools(source, store)
    # A schema that is no object stands in real registries; it leaves, and is refused on its way back.
    progress = Notes()
    file = io.BytesIO()
    summary = await export_tools(file, store, progress=progress)
    before = await rows(connection, CARRIED)
    assert summary.exported == len(before) == progress.advanced
    assert summary.failed == summary.left_out == 0
    assert ["detect-language" in note for note in progress.notes] == [True]
    await empty(connection)
    again = await import_tools(io.BytesIO(file.getvalue()), store)
    assert counts(again) == (len(before) - 1, 0, 0, 0, 1)
    assert again.failures[0].name == "detect-language"
    assert again.failures[0].error == "input_schema: expected an object, found a list"

    def comparable(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        parsed = ("tags", "input_schema", "output_schema", "metadata")
        return [
            {k: json.loads(v) if k in parsed and v is not None else v for k, v in one.items()}
            for one in found
            if one["name"] != "detect-language"
        ]

    assert comparable(await rows(connection, CARRIED)) == comparable(before)
    assert await exported(store) == b"".join(
        line for line in file.getvalue().splitlines(keepends=True) if b'"detect-language"' not in line
    )


async def test_embeddings_leave_with_jsonl_only_and_to_the_last_bit(
    connection: psycopg.AsyncConnection, store: PostgresTransferStore
) -> None:
    found = [json.loads(line) for line in (await exported(store, with_embeddings=True)).splitlines()]
    assert [one["embedding"] is None for one in found].count(True) == 2
    assert {one["embedding_model"] for one in found} == {None}
    for one in found:
        cursor = await connection.execute(
            "SELECT embedding IS NOT DISTINCT FROM %s::vector FROM tools WHERE name = %s",
            [None if one["embedding"] is None else json.dumps(one["embedding"]), one["name"]],
        )
        assert await cursor.fetchone() == (True,)
    for file_format in ("mcp", "openai"):
        with pytest.raises(InvalidUsageError, match="no place for embeddings"):
            await exported(store, file_format=file_format, with_embeddings=True)


async def test_embeddings_name_the_model_where_generations_are_recorded(
    connection: psycopg.AsyncConnection, store: PostgresTransferStore
) -> None:
    await connection.execute("CREATE TABLE embedding_generations (role text, model text)")
    await connection.execute("INSERT INTO embedding_generations VALUES ('current', 'm1'), ('previous', 'm0')")
    found = [json.loads(line) for line in (await exported(store, with_embeddings=True)).splitlines()]
    assert {(one["embedding"] is None, one["embedding_model"]) for one in found} == {(True, None), (False, "m1")}


@pytest.mark.parametrize("file_format", ["mcp", "openai"])
async def test_other_formats_hold_the_active_tools_and_come_back(
    connection: psycopg.AsyncConnection, store: PostgresTransferStore, file_format: Any
) -> None:
    progress = Notes()
    sink = io.BytesIO()
    summary = await export_tools(sink, store, file_format=file_format, progress=progress)
    assert (summary.exported, summary.left_out) == (15, 1)
    assert any("inactive" in note for note in progress.notes)
    document = json.loads(sink.getvalue())
    tools = document["tools"] if file_format == "mcp" else [one["function"] for one in document]
    schema = "inputSchema" if file_format == "mcp" else "parameters"
    assert {tool[schema]["type"] for tool in tools} == {"object"}
    assert "straßensuche" in {tool["name"] for tool in tools}
    await empty(connection)
    assert counts(await import_tools(io.BytesIO(sink.getvalue()), store, file_format=file_format)) == (15, 0, 0, 0, 0)
    await empty(connection)
    nothing = json.loads(await exported(store, file_format=file_format))
    assert nothing == ({"tools": []} if file_format == "mcp" else [])
    assert await exported(store) == b""


async def test_memory_is_bounded_both_ways(connection: psycopg.AsyncConnection, store: PostgresTransferStore) -> None:
    """60 MB in tools of 20 kB."""

    class Made(io.RawIOBase):
        def __init__(self) -> None:
            self._pieces: Iterator[bytes] = (
                json.dumps({"name": f"tool {n}", "description": "d" * 20_000}).encode() + b"\n" for n in range(3_000)
            )
            self._left = b""

        def read(self, size: int = -1, /) -> bytes:
            if not self._left:
                self._left = next(self._pieces, b"")
            piece, self._left = self._left[:size], self._left[size:]
            return piece

    class Counting(io.RawIOBase):
        written = 0

        def write(self, data: Any, /) -> int:
            self.written += len(data)
            return len(data)

    tracemalloc.start()
    try:
        assert counts(await import_tools(Made(), store)) == (3_000, 0, 0, 0, 0)
        assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
        tracemalloc.reset_peak()
        sink = Counting()
        await export_tools(sink, store)  # type: ignore[arg-type]  # writes all that it gets, as a buffered file does
        assert sink.written > 60_000_000
        assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    finally:
        tracemalloc.stop()


async def test_values_that_json_cannot_carry_do_not_stop_an_export(
    connection: psycopg.AsyncConnection, store: PostgresTransferStore
) -> None:
    await connection.execute("UPDATE tools SET metadata = '{\"x\": 1e999}' WHERE name = 'ping'")
    await connection.execute("UPDATE tools SET metadata = '{\"x\": \"\\ud800\"}' WHERE name = 'calculator'")
    sink = io.BytesIO()
    summary = await export_tools(sink, store)
    assert summary.exported == 15
    assert [failure.name for failure in summary.failures] == ["ping"]
    assert b"\\ud800" in sink.getvalue()
    await connection.execute("UPDATE tools SET metadata = %s::json WHERE name = 'ping'", ["[" * 1500 + "]" * 1500])
    with pytest.raises(StateError, match="holds a value that cannot be read"):
        await export_tools(sink, store)


text_values = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text_values,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text_values, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(text_values, json_values, max_size=3)
new_tools = st.builds(
    NewTool,
    name=text_values.filter(str.strip),
    description=text_values,
    category=text_values.filter(str.strip),
    tags=st.lists(text_values, max_size=3),
    input_schema=objects,
    output_schema=st.none() | objects,
    implementation_type=text_values.filter(bool),
    implementation_code=st.none() | text_values,
    is_active=st.booleans(),
    version=text_values.filter(bool),
    metadata=st.none() | objects,
)


def test_any_tool_survives_a_round_trip(registry: str) -> None:
    loop = asyncio.new_event_loop()
    connection = loop.run_until_complete(connect(registry))
    store = PostgresTransferStore(connection)

    async def round_trip(tools: list[NewTool]) -> None:
        await empty(connection)
        await store.upsert(tools, on_conflict="error")
        first, before = await exported(store), await rows(connection, CARRIED)
        assert counts(await import_tools(io.BytesIO(first), store)) == (0, 0, len(tools), 0, 0)
        await empty(connection)
        assert counts(await import_tools(io.BytesIO(first), store)) == (len(tools), 0, 0, 0, 0)
        assert await rows(connection, CARRIED) == before
        assert await exported(store) == first

    @settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(new_tools, min_size=1, max_size=4, unique_by=lambda tool: tool.name))
    def check(tools: list[NewTool]) -> None:
        loop.run_until_complete(round_trip(tools))

    try:
        check()
    finally:
        loop.run_until_complete(connection.close())
        loop.close()
