"""Real servers and databases for tests."""

from __future__ import annotations

import contextlib
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
from psycopg import sql

from toolbox_cli.db.embedded import EmbeddedServer

#: Nothing that tests write has to survive a power cut. Many connections: tests that fan out share one server.
FAST_OPTIONS = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "max_connections": "200",
}


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A temporary folder that every account may pass, removed at the end.

    pytest's own is 0700: as root, PostgreSQL's unprivileged account could not enter it.
    """
    folder = Path(tempfile.mkdtemp(prefix="toolbox-test-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def create_database(server: EmbeddedServer, name: str | None = None, *, template: str = "template0") -> str:
    """Create a database (with a unique name if none is given) and return its conninfo."""
    name = name or f"test_{uuid.uuid4().hex}"
    statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
    _execute(server, statement.format(sql.Identifier(name), sql.Identifier(template)))
    return server.conninfo(name)


def clone(server: EmbeddedServer, template: str) -> str:
    """A new database, a copy of ``template``, to which nobody may be connected; returns its conninfo."""
    return create_database(server, template=template)


def drop_database(server: EmbeddedServer, conninfo: str) -> None:
    """Drop the database of a conninfo, together with the connections to it."""
    name = str(psycopg.conninfo.conninfo_to_dict(conninfo)["dbname"])
    _execute(server, sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def configure(conninfo: str, **settings: str | None) -> None:
    """Change settings of the whole server; None takes a setting back to the server's own default."""
    with psycopg.connect(conninfo, autocommit=True) as admin:
        for name, value in settings.items():
            setting = sql.Identifier(name)
            if value is None:
                admin.execute(sql.SQL("ALTER SYSTEM RESET {}").format(setting))
            else:
                admin.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(setting, sql.Literal(value)))
        admin.execute("SELECT pg_reload_conf()")


def _execute(server: EmbeddedServer, statement: sql.Composed) -> None:
    with psycopg.connect(server.conninfo("postgres"), autocommit=True) as connection:
        connection.execute(statement)


def embedded(data_dir: Path, **options: str) -> EmbeddedServer:
    """A server that does not wait for the disk, which no test of starting and stopping needs."""
    return EmbeddedServer(data_dir, {"fsync": "off", **options})


def scalar(server: EmbeddedServer, query: str) -> object:
    """The first column of the first row."""
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        row = connection.execute(query).fetchone()
        assert row is not None
        return row[0]


def execute(server: EmbeddedServer, statement: str) -> None:
    """Run one statement in the server's own database."""
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        connection.execute(statement)


def mode(path: Path) -> int:
    """The permission bits of a path."""
    return stat.S_IMODE(path.stat().st_mode)
