"""Changes beside traffic and other operators: nobody waits behind them, and nothing is done by halves."""

from __future__ import annotations

import asyncio
import time

import psycopg
import pytest
from support.registries import (
    catalogue_of,
    execute,
    fill,
    migrate,
    opened,
    roles,
    server_insert,
    target,
    vectors,
)

from toolbox_cli.core.generation import Consent
from toolbox_cli.domain.errors import LockBusyError
from toolbox_cli.domain.ports import SilentProgress


async def test_table_locked_by_another_session(registry_database: str) -> None:
    fill(registry_database, 2)
    async with await psycopg.AsyncConnection.connect(registry_database, application_name="a long report") as other:
        await other.execute("SELECT count(*) FROM tools")
        before, started = catalogue_of(registry_database), time.monotonic()
        with pytest.raises(LockBusyError) as caught:
            await migrate(registry_database, target(16), wait_timeout=1.0)
        assert time.monotonic() - started < 5
        assert f"server process {other.info.backend_pid} (a long report, idle in transaction" in caught.value.message
        assert caught.value.hint
        assert catalogue_of(registry_database) == before
        # Whoever came meanwhile was not kept waiting behind the change.
        server_insert(registry_database, "registered_meanwhile")
    await migrate(registry_database, target(16))


async def test_two_operators(registry_database: str) -> None:
    before = catalogue_of(registry_database)
    async with opened(registry_database) as first, first.exclusive_lock(SilentProgress()):
        with pytest.raises(LockBusyError) as caught:
            await migrate(registry_database, target(16), wait_timeout=0.3)
        assert f"server process {first.connection.info.backend_pid}" in caught.value.message
        assert caught.value.hint
        assert catalogue_of(registry_database) == before
    await migrate(registry_database, target(16))


async def test_lock_of_a_killed_operator_is_free(registry_database: str) -> None:
    async with opened(registry_database) as first:
        async with first.exclusive_lock(SilentProgress()):
            execute(registry_database, "SELECT pg_terminate_backend(%s)", [first.connection.info.backend_pid])
            with pytest.raises(psycopg.OperationalError):
                await first.connection.execute("SELECT 1")
        await migrate(registry_database, target(16), wait_timeout=2.0)


async def test_two_migrations_at_once(registry_database: str) -> None:
    fill(registry_database, 5)
    both = await asyncio.gather(
        migrate(registry_database, target(16), consent=Consent()),
        migrate(registry_database, target(16), consent=Consent()),
        return_exceptions=True,
    )
    # The second looked again once it had the lock, found all done, or did nothing more than say so.
    assert not [outcome for outcome in both if isinstance(outcome, BaseException)]
    assert roles(registry_database) == {"current": ("test-model", 16), "previous": ("test-model", 8)}
    assert len(vectors(registry_database, "embedding_previous")) == 5


async def test_reading_the_registry_beside_somebody_who_drops_and_builds_its_index(registry_database: str) -> None:
    """A reindex does so; PostgreSQL answers «cache lookup failed» to whoever asks about it in that moment."""
    stop = asyncio.Event()

    async def drop_and_build() -> None:
        async with await psycopg.AsyncConnection.connect(registry_database, autocommit=True) as other:
            while not stop.is_set():
                await other.execute("DROP INDEX IF EXISTS ix_tools_embedding")
                await other.execute("CREATE INDEX ix_tools_embedding ON tools USING hnsw (embedding vector_cosine_ops)")

    dropping = asyncio.create_task(drop_and_build())
    async with opened(registry_database) as registry:
        for _ in range(150):
            found = (await registry.state(count=True)).indexes
            assert [index.name for index in found] in ([], ["ix_tools_embedding"])
    stop.set()
    await dropping
