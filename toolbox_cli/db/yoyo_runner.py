"""yoyo, with the guards that a production registry needs.

What yoyo 9.0 does that must be guarded: it commits a migration and its mark in two transactions (so every plan is
computed from the state as found, and may be applied twice); it *skips* a migration that fails to import (so each is
loaded beforehand, loudly); its lock is a row that survives ``kill -9`` (so the advisory lock is the real one, and a
left-over row is cleared under it); ``read_migrations`` finds nothing, silently, in an empty folder.
"""

from __future__ import annotations

import getpass
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import psycopg
from yoyo import exceptions, read_migrations
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
from yoyo.connections import DatabaseURI

from toolbox_cli.db.faults import database_errors
from toolbox_cli.db.migration_steps import PLANNED
from toolbox_cli.domain.errors import StateError

if TYPE_CHECKING:
    from yoyo.migrations import Migration

    from toolbox_cli.db.drafts import Plan
    from toolbox_cli.db.state import RegistryState
    from toolbox_cli.domain.models import Target

MIGRATION_TABLE = "_yoyo_migration"


class MigrationModule(Protocol):
    """What a file in ``migrations/`` defines besides its yoyo step."""

    def upgrade(self, state: RegistryState, target: Target) -> Plan: ...

    def downgrade(self, state: RegistryState) -> Plan: ...


@dataclass(frozen=True)
class MigrationFile:
    """One migration: its id (the file's stem), its short number, and its module."""

    id: str
    module: MigrationModule
    migration: Migration

    @property
    def number(self) -> str:
        return self.id.split("_", 1)[0]


def migrations_folder() -> Path:
    """The folder of migrations: inside the package in a wheel, beside it in a checkout. StateError when empty."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "migrations", package.parent / "migrations"):
        if any(folder.glob("[0-9]*.py")):
            return folder
    raise StateError(
        f"no migrations were found beside {package}",
        hint="The installation is incomplete; install toolbox-cli again.",
    )


def load_migrations() -> list[MigrationFile]:
    """All migrations in order, imported. Raises StateError when one cannot be imported: yoyo would skip it."""
    # yoyo logs the traceback of a migration that it cannot import; ours is one line (see below).
    logging.getLogger("yoyo").setLevel(logging.CRITICAL)
    folder = migrations_folder()
    files: list[MigrationFile] = []
    for migration in sorted(read_migrations(str(folder)), key=lambda found: str(found.id)):
        try:
            migration.load()
        except exceptions.BadMigration as exc:
            raise StateError(
                f"migration {migration.id} cannot be imported: {exc}", hint="Install toolbox-cli again."
            ) from exc
        files.append(MigrationFile(migration.id, cast("MigrationModule", migration.module), migration))
    return files


class Backend(PostgresqlPsycopgBackend):  # type: ignore[misc]  # yoyo ships no types
    """yoyo's PostgreSQL backend on a libpq connection string of any form, sockets and services included."""

    def __init__(self, conninfo: str, lock_timeout_ms: int) -> None:
        self.conninfo = conninfo
        self.lock_timeout_ms = lock_timeout_ms
        super().__init__(DatabaseURI("postgresql+psycopg", None, None, None, None, None, {}), MIGRATION_TABLE)

    def copy(self) -> Backend:
        return Backend(self.conninfo, self.lock_timeout_ms)

    def connect(self, dburi: DatabaseURI) -> psycopg.Connection[Any]:
        connection = psycopg.connect(self.conninfo, autocommit=True)
        # DDL must never queue in front of the traffic: it steps back after this time, and is tried again.
        connection.execute(f"SET lock_timeout = {int(self.lock_timeout_ms)}")
        return connection

    def create_lock_table(self) -> None:
        # yoyo swallows what the server says here, and then fails for want of the table: with the wrong words.
        if self.execute("SELECT to_regclass('yoyo_lock')").fetchone()[0] is None:
            with self.transaction():
                self.execute(self.format_sql(self.create_lock_table_sql))

    def _check_transactional_ddl(self) -> bool:
        # yoyo finds out by making a table. PostgreSQL has it always.
        return True

    def get_log_data(self, migration: Any = None, operation: str = "apply") -> dict[str, Any]:
        # getpass.getuser() raises for a uid without a passwd entry, as containers have; the log needs no such name.
        try:
            getpass.getuser()
        except (KeyError, OSError):
            import os

            os.environ.setdefault("LOGNAME", f"uid{os.getuid()}")
        return cast("dict[str, Any]", super().get_log_data(migration, operation))


@contextmanager
def _backend(conninfo: str, lock_timeout_ms: int) -> Iterator[Backend]:
    with database_errors():
        backend = Backend(conninfo, lock_timeout_ms)
        with backend:
            backend.init_database()
            backend.break_lock()  # we hold the advisory lock: whoever left this row behind is dead
            yield backend


def apply_one(conninfo: str, lock_timeout_ms: int, file: MigrationFile, plan: Plan) -> None:
    """Apply one migration by its plan and mark it. Blocking; the caller holds the registry's lock."""
    with _backend(conninfo, lock_timeout_ms) as backend, backend.lock():
        token = PLANNED.set(plan)
        try:
            backend.apply_one(file.migration)
        finally:
            PLANNED.reset(token)


def rollback_one(conninfo: str, lock_timeout_ms: int, file: MigrationFile, plan: Plan) -> None:
    """Undo one migration by its plan and unmark it. Blocking; the caller holds the registry's lock."""
    with _backend(conninfo, lock_timeout_ms) as backend, backend.lock():
        token = PLANNED.set(plan)
        try:
            backend.rollback_one(file.migration)
        finally:
            PLANNED.reset(token)
