"""Import into PostgreSQL, on a registry as the ToolBox server's Alembic leaves it."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from support.transfer import Notes, counts, lines, load_registry, row, rows

from toolbox_cli.core.transfer import export_tools, import_tools
from toolbox_cli.db.connection import connect
from toolbox_cli.db.queries import load
from toolbox_cli.db.transfer import PostgresTransferStore
from toolbox_cli.domain.errors import DatabaseError, InvalidUsageError, StateError
from toolbox_cli.domain.transfer import ImportSummary, NewTool


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


async def test_new_tools_get_every_column_in_the_order_of_the_file(
    connection: psycopg.AsyncConnection, store: PostgresTransferStore
) -> None:
    summary = await import_tools(
        lines({"name": "z", "inputSchema": {"b": 1, "a": 2}}, {"name": "a", "description": "x", "category": "c"}),
        store,
        category="given",
    )
    assert counts(summary) == (2, 0, 0, 0, 0)
    first, second = await row(connection, "z"), await row(connection, "a")
    assert first["id"] < second["id"]
    assert (first["category"], second["category"]) == ("given", "c")
    assert (first["description"], first["tags"], first["is_active"], first["version"]) == ("", [], True, "1.0.0")
    assert (first["implementation_type"], first["output_schema"], first["metadata"]) == ("external", None, None)
    assert list(first["input_schema"]) == ["b", "a"]
    assert first["embedding"] is None
    assert first["created_at"] == first["updated_at"]
    cursor = await connection.execute(
        "SELECT abs(extract(epoch FROM (now() AT TIME ZONE 'utc') - %s))", [first["created_at"]]
    )
    age = await cursor.fetchone()
    assert age is not None
    assert age[0] < 60


async def test_update_writes_only_what_the_file_gives_and_what_differs(
    connection: psycopg.AsyncConnection, store: PostgresTransferStore
) -> None:
    before = {one["name"]: one for one in await rows(connection, "*, ctid, tags::text AS tags_text")}
    calculator = before["calculator"]
    summary = await import_tools(
        lines(
            {"name": "calculator", "description": "New words", "inputSchema": calculator["input_schema"]},
            {"name": "ping", "description": before["ping"]["description"], "tags": []},
            {"name": "tail_log", "description": before["tail_log"]["description"], "output_schema": {"x": True}},
        ),
        store,
    )
    assert counts(summary) == (0, 2, 1, 0, 0)
    after = {one["name"]: one for one in await rows(connection, "*, ctid, tags::text AS tags_text")}
    changed = after["calculator"]
    assert changed["description"] == "New words"
    assert changed["updated_at"] > calculator["updated_at"]
    kept = {"description", "updated_at", "ctid"}
    assert {k: v for k, v in changed.items() if k not in kept} == {k: v for k, v in calculator.items() if k not in kept}
    assert calculator["embedding"] is not None
    assert after["tail_log"]["output_schema"] == {"x": True}
    assert after["tail_log"]["metadata"] == before["tail_log"]["metadata"]
    untouched = before.keys() - {"calculator", "tail_log"}
    assert {name: after[name] for name in untouched} == {name: before[name] for name in untouched}


@pytest.mark.parametrize(("stored", "given"), [("1", True), ("0", False), ("1", 1.5), ('{"a": 1}', {"a": None})])
async def test_values_that_python_takes_for_equal_are_told_apart(
    connection: psycopg.AsyncConnection, store: PostgresTransferStore, stored: str, given: Any
) -> None:
    await connection.execute("UPDATE tools SET metadata = json_build_object('v', %s::json)", [stored])
    entry = {"name": "ping", "description": "Check whether a host answers on the network", "metadata": {"v": given}}
    assert counts(await import_tools(lines(entry), store)) == (0, 1, 0, 0, 0)
    assert (await row(connection, "ping"))["metadata"] == {"v": given}
    assert counts(await import_tools(lines(entry), store)) == (0, 0, 1, 0, 0)


async def test_annotations_are_laid_over_an_operators_metadata(
    connection: psycopg.AsyncConnection, store: PostgresTransferStore
) -> None:
    entry = {"name": "orders.list", "inputSchema": {}, "title": "Orders", "annotations": {"readOnlyHint": True}}
    await import_tools(lines(entry), store)
    expected = {"owner": "sales", "sla_ms": 400, "annotations": {"readOnlyHint": True}, "title": "Orders"}
    assert (await row(connection, "orders.list"))["metadata"] == expected
    await import_tools(lines({**entry, "metadata": {"mine": 1}}), store)
    mine = {"mine": 1, "annotations": {"readOnlyHint": True}, "title": "Orders"}
    assert (await row(connection, "orders.list"))["metadata"] == mine


@pytest.mark.parametrize(
    ("on_conflict", "expected"), [("update", (1, 1, 0, 0, 0)), ("skip", (1, 0, 0, 1, 0)), ("error", (1, 0, 0, 0, 1))]
)
@pytest.mark.parametrize("dry_run", [True, False])
async def test_conflicts_and_dry_run(
    connection: psycopg.AsyncConnection,
    store: PostgresTransferStore,
    on_conflict: Any,
    expected: tuple[int, ...],
    dry_run: bool,
) -> None:
    columns = "*, ctid, xmin, (SELECT last_value FROM tools_id_seq)"
    before = await rows(connection, columns)
    source = lines({"name": "calculator", "description": "other"}, {"name": "new", "description": "x"})
    summary = await import_tools(source, store, on_conflict=on_conflict, dry_run=dry_run)
    assert counts(summary) == expected
    if on_conflict == "error":
        assert [failure.model_dump() for failure in summary.failures] == [
            {"line": 1, "name": "calculator", "error": "already exists"}
        ]
    after = await rows(connection, columns)
    assert (after == before) is dry_run
    description = (await row(connection, "calculator"))["description"]
    assert (description == "other") is (on_conflict == "update" and not dry_run)


async def test_bad_entries_are_reported_by_line_and_cost_nobody_else(
    connection: psycopg.AsyncConnection, store: PostgresTransferStore
) -> None:
    good = {"name": "good", "description": "x"}
    source = io.BytesIO(
        b"\n".join(
            [
                json.dumps({"name": "n" * 256, "description": "x"}).encode(),
                json.dumps(good).encode(),
                b"{oops",
                json.dumps({"name": "a\0b", "description": "x"}).encode(),
                json.dumps({**good, "description": "twice"}).encode(),
                json.dumps({"name": "\ud83d", "description": "\x1b[31m", "category": "\ud83d"}).encode(),
                json.dumps({"name": "last", "description": "x"}).encode(),
            ]
        )
    )
    progress = Notes()
    summary = await import_tools(source, store, progress=progress)
    assert counts(summary) == (2, 0, 0, 0, 5)
    assert [(failure.line, failure.name) for failure in summary.failures] == [
        (1, "n" * 256),
        (3, None),
        (4, "a\\x00b"),
        (5, "good"),
        (6, "\\ud83d"),
    ]
    assert summary.failures[3].error == "duplicate of line 2"
    assert progress.advanced == 7
    assert summary.model_dump_json().isprintable()
    assert (await row(connection, "good"))["description"] == "x"
    assert await row(connection, "last")


async def test_a_row_that_the_database_refuses_does_not_lose_its_batch(
    connection: psycopg.AsyncConnection, store: PostgresTransferStore
) -> None:
    await connection.execute("ALTER TABLE tools ADD CONSTRAINT no_seven CHECK (description NOT LIKE '%7!') NOT VALID")
    await connection.execute("ALTER TABLE tools ALTER version TYPE varchar(8)")
    entries = [{"name": f"tool {n}", "description": f"number {n}!", "version": "1" * 7} for n in range(20)]
    entries[3]["version"] = "1" * 9
    summary = await import_tools(lines(*entries), store)
    assert counts(summary) == (17, 0, 0, 0, 3)
    assert [failure.line for failure in summary.failures] == [4, 8, 18]
    assert "value too long for type character varying(8)" in summary.failures[0].error
    assert 'violates check constraint "no_seven"' in summary.failures[1].error


async def test_many_batches_and_a_second_run(connection: psycopg.AsyncConnection, store: PostgresTransferStore) -> None:
    entries = [{"name": f"tool {n}", "description": "x" * 200, "inputSchema": {"n": n}} for n in range(2_345)]
    assert counts(await import_tools(lines(*entries), store)) == (2_345, 0, 0, 0, 0)
    entries[1_999]["description"] = "changed"
    again = io.BytesIO(json.dumps({"jsonrpc": "2.0", "id": 0, "result": {"tools": entries}}).encode())
    assert counts(await import_tools(again, store)) == (0, 1, 2_344, 0, 0)
    assert len(await rows(connection, "id")) == 2_345 + 16


async def test_two_imports_of_the_same_file_at_once_register_every_tool_once(registry: str) -> None:
    entries = [{"name": f"tool {n}", "description": "x"} for n in range(120)]

    async def run(order: int) -> ImportSummary:
        connection = await connect(registry)
        try:
            return await import_tools(lines(*entries[::order]), PostgresTransferStore(connection))
        finally:
            await connection.close()

    first, second, third = await asyncio.gather(run(1), run(-1), run(1))
    assert first.created + second.created + third.created == 120
    assert first.unchanged + second.unchanged + third.unchanged == 240
    assert first.failed == second.failed == third.failed == 0


async def test_executions_can_be_recorded_while_an_import_holds_its_rows(
    registry: str, store: PostgresTransferStore, connection: psycopg.AsyncConnection
) -> None:
    other = await connect(registry)
    async with connection.transaction():
        await store.upsert([NewTool(name="calculator", description="changed")], on_conflict="update")
        await other.execute("SET lock_timeout = '2s'")
        await other.execute(
            "INSERT INTO tool_executions (tool_id, tool_name, input_data, status, started_at)"
            " SELECT id, name, '{}', 'running', now() FROM tools WHERE name = 'calculator'"
        )
    await other.close()


async def test_faults_of_the_database_are_domain_errors(
    connection: psycopg.AsyncConnection, store: PostgresTransferStore
) -> None:
    one = {"name": "a", "description": "x"}
    await connection.execute("SET default_transaction_read_only = on")
    with pytest.raises(DatabaseError, match="only allows reading"):
        await import_tools(lines(one), store)
    assert counts(await import_tools(lines(one), store, dry_run=True)) == (1, 0, 0, 0, 0)
    await connection.execute("SET default_transaction_read_only = off")
    await connection.execute("DROP TABLE tools CASCADE")
    for attempt in (import_tools(lines(one), store), export_tools(io.BytesIO(), store)):
        with pytest.raises(StateError) as caught:
            await attempt
        assert "toolbox migrate" in str(caught.value.hint)
    await connection.close()
    with pytest.raises(DatabaseError):
        await import_tools(lines(one), store)


@pytest.mark.parametrize("category", ["", " ", "c" * 101, "a\0b"])
async def test_a_category_that_cannot_be_is_refused_once(store: PostgresTransferStore, category: str) -> None:
    with pytest.raises(InvalidUsageError, match="--category cannot be used: category"):
        await import_tools(lines({"name": "a", "description": "x"}), store, category=category)


async def test_every_statement_prepares(connection: psycopg.AsyncConnection) -> None:
    await connection.execute("CREATE TABLE embedding_generations (role text, model text)")
    statements = load("transfer")
    assert len(statements) == 8
    values = {"names": ["a"], "tools": "[]", "after": 0, "limit": 1}
    for statement in statements.values():
        needed = {key: value for key, value in values.items() if f"%({key})s" in statement}
        await connection.execute(statement, needed, prepare=True)
