"""The registry's schema on one session: read its state, hold its lock, plan changes and carry them out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg

from toolbox_cli.db import planning
from toolbox_cli.db.changes import RegistryChange, RegistryCutover, Session
from toolbox_cli.db.faults import database_errors
from toolbox_cli.db.locks import registry_lock
from toolbox_cli.db.queries import always, query
from toolbox_cli.db.state import RegistryState, read_state
from toolbox_cli.db.workers import check_session
from toolbox_cli.domain.errors import DatabaseError
from toolbox_cli.domain.models import Generation, Role, ServerInfo, Target
from toolbox_cli.domain.ports import Progress

#: pgvector that has every type and operator class we use: halfvec, bit and binary_quantize came with 0.7.0.
MINIMUM_PGVECTOR = (0, 7)
#: PostgreSQL 14 is the oldest major version that is still maintained.
MINIMUM_SERVER = 140_000


class Registry:
    """One session for reading state, holding the lock and changing the schema under it."""

    def __init__(
        self,
        conninfo: str,
        connection: psycopg.AsyncConnection,
        *,
        lock_timeout_ms: int,
        wait_timeout: float,
        embedded: bool,
    ) -> None:
        self.conninfo = conninfo
        self.connection = connection
        self.lock_timeout_ms = lock_timeout_ms
        self.wait_timeout = wait_timeout
        self._embedded = embedded

    @asynccontextmanager
    async def exclusive_lock(self, progress: Progress) -> AsyncIterator[None]:
        """No other command changes or fills the registry meanwhile.

        Raises LockBusyError naming who is at work, StateError for a pooler that would lose the lock between two
        statements.
        """
        with database_errors():
            second = await psycopg.AsyncConnection.connect(self.conninfo, autocommit=True)
        async with second:
            await check_session(self.connection, second)
        async with registry_lock(self.connection, wait_seconds=self.wait_timeout, progress=progress):
            yield

    async def state(self, *, count: bool = False) -> RegistryState:
        with database_errors():
            return await read_state(self.connection, count=count)

    async def generation(self, role: Role = Role.CURRENT) -> Generation | None:
        return (await self.state()).generations.get(role)

    async def server(self) -> ServerInfo:
        with database_errors():
            row = always(await (await self.connection.execute(query("schema", "server"))).fetchone())
        return ServerInfo(
            server_version=row[0],
            server_version_number=row[1],
            pgvector_version=row[2],
            embedded=self._embedded,
        )

    async def check_server(self) -> None:
        """Raise unless the server can hold a registry: version, and pgvector installed or installable."""
        with database_errors():
            row = always(await (await self.connection.execute(query("schema", "server"))).fetchone())
        version, number, installed, available = row
        if number < MINIMUM_SERVER:
            raise DatabaseError(f"the server is PostgreSQL {version}, expected 14 or later", hint="Upgrade the server.")
        if installed is None and available is None:
            raise DatabaseError(
                "the server has no pgvector: the extension 'vector' is not available",
                hint="Install pgvector 0.7 or later on the server (e.g. the package postgresql-NN-pgvector).",
            )
        found = installed or available
        if tuple(int(part) for part in found.split(".")[:2]) < MINIMUM_PGVECTOR:
            raise DatabaseError(
                f"pgvector is {found}, expected 0.7 or later",
                hint="Upgrade it on the server, then ALTER EXTENSION vector UPDATE.",
            )

    async def plan_migrate(self, target: Target, *, online: bool = False) -> RegistryChange:
        """What brings the registry to this target; ``online`` leaves what search reads as it is."""
        await self.check_server()
        state = await self.state(count=True)
        plan = planning.plan_online if online else planning.plan_migrate
        return RegistryChange(self._session(), plan(state, target))

    async def plan_rollback(self, to: str | None) -> RegistryChange:
        """One step back, or the migrations after ``to`` undone."""
        return RegistryChange(self._session(), planning.plan_rollback(await self.state(count=True), to))

    async def plan_prune(self) -> RegistryChange:
        """Free what was kept for a roll back."""
        return RegistryChange(self._session(), planning.plan_prune(await self.state(count=True)))

    async def plan_cutover(self) -> RegistryCutover:
        """The building generation takes the name over."""
        return RegistryCutover(self._session(), await self.state(count=True))

    def _session(self) -> Session:
        return Session(self.conninfo, self.connection, self.lock_timeout_ms, self.wait_timeout)
