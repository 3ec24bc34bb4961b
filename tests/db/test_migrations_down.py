"""Undoing migrations: what comes back, what is lost and has to be agreed to, and what is never dropped."""

from __future__ import annotations

import pytest
from support.registries import (
    MIGRATIONS,
    applied,
    column_type,
    execute,
    indexes,
    migrate,
    roles,
    rollback,
    schema_of,
    server_insert,
    target,
    value,
    vectors,
)

from toolbox_cli.core.generation import Consent
from toolbox_cli.domain.errors import InvalidUsageError, NegativeAnswerError, StateError


async def test_up_down_up(registry_database: str) -> None:
    before = schema_of(registry_database)
    server_insert(registry_database, "gone_with_the_table")
    await rollback(registry_database, "zero")
    emptied = schema_of(registry_database)
    assert all(not found for found in emptied.values())
    assert applied(registry_database) == []
    await migrate(registry_database)
    assert schema_of(registry_database) == before
    assert roles(registry_database) == {"current": ("test-model", 8)}


@pytest.mark.parametrize("to", ["001", "002"])
async def test_down_to_a_number_and_up_again(registry_database: str, to: str) -> None:
    await migrate(registry_database, target(1024))
    before = schema_of(registry_database)
    await rollback(registry_database, to)
    assert applied(registry_database) == MIGRATIONS[: int(to)]
    assert not schema_of(registry_database)["functions"]
    assert (await rollback(registry_database, to)).steps == []
    await migrate(registry_database, target(1024))
    after = schema_of(registry_database)
    dropped = {"tools.embedding_previous", "tools.embedding_previous_fingerprint"} if to == "001" else set()
    assert after == before | {"columns": {k: v for k, v in before["columns"].items() if k not in dropped}}


async def test_down_to_001_brings_the_old_vectors_back(alembic_database: str) -> None:
    old, index = vectors(alembic_database), indexes(alembic_database)
    await migrate(alembic_database, target(768))
    server_insert(alembic_database, "newer")
    with pytest.raises(NegativeAnswerError) as caught:
        await rollback(alembic_database, "001", consent=Consent())
    assert "1 vectors of 768 dimensions" in caught.value.message
    assert applied(alembic_database) == MIGRATIONS
    await rollback(alembic_database, "001")
    assert column_type(alembic_database) == "vector(1024)"
    assert vectors(alembic_database) == old
    assert applied(alembic_database) == MIGRATIONS[:1]
    assert list(indexes(alembic_database)) == list(index)
    assert not any(name.startswith("embedding_") for name in schema_of(alembic_database)["tables"])


async def test_down_to_001_without_the_old_vectors(registry_database: str) -> None:
    server_insert(registry_database, "lost")
    outline = await rollback(registry_database, "001", dry_run=True)
    assert outline.losses[-1] == "1 vectors of 8 dimensions (column embedding)"
    await rollback(registry_database, "001")
    assert column_type(registry_database) == "vector(1024)"
    assert vectors(registry_database) == {}
    server_insert(registry_database, "as in the guide", 1024)


async def test_adopted_tables_survive_zero(alembic_database: str) -> None:
    before, old = schema_of(alembic_database), vectors(alembic_database)
    await migrate(alembic_database, target(768))
    outline = await rollback(alembic_database, "zero")
    assert any("the tables stay" in note for note in outline.notes)
    assert applied(alembic_database) == []
    after = schema_of(alembic_database)
    assert after["columns"] == before["columns"]
    assert after["constraints"] == before["constraints"]
    assert after["functions"] == {}
    assert after["tables"] == before["tables"] | {"tools": "fillfactor=50"}
    assert vectors(alembic_database) == old
    assert value(alembic_database, "SELECT count(*) FROM tool_executions") == 3
    assert value(alembic_database, "SELECT version_num FROM alembic_version") == "001"


async def test_executions_of_somebody_else_survive_zero(empty_database: str) -> None:
    execute(empty_database, "CREATE TABLE tool_executions (anything int); INSERT INTO tool_executions VALUES (1)")
    await migrate(empty_database)
    await rollback(empty_database, "zero")
    assert value(empty_database, "SELECT count(*) FROM tool_executions") == 1
    assert not value(empty_database, "SELECT to_regclass('tools') IS NOT NULL")


async def test_zero_with_a_view_on_the_table_says_what_is_in_the_way(registry_database: str) -> None:
    execute(registry_database, "CREATE VIEW names AS SELECT name FROM tools")
    with pytest.raises(StateError, match="view names depends on table tools"):
        await rollback(registry_database, "zero")
    assert applied(registry_database) == MIGRATIONS[:1]
    execute(registry_database, "DROP VIEW names")
    await rollback(registry_database, "zero")
    assert applied(registry_database) == []


@pytest.mark.parametrize("to", ["004", "", "none", "1"])
async def test_rollback_to_what_is_not_there(registry_database: str, to: str) -> None:
    with pytest.raises(InvalidUsageError, match="expected one of zero, 001, 002, 003"):
        await rollback(registry_database, to)
