"""What every test stands on: an environment of its own, and a real server per session (and xdist worker)."""

from __future__ import annotations

import os
import shutil
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.catalogue import catalogue, catalogue_template
from support.postgres import FAST_OPTIONS, clone, configure, create_database, drop_database, open_folder
from support.registries import load_alembic, migrate_blocking, target

from toolbox_cli.db.embedded import EmbeddedServer

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts its background jobs so, and their children inherit it: nothing could be interrupted.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Here, once: a template of the session that two folders imported would be two fixtures, and made twice.
__all__ = ["catalogue", "catalogue_template"]


@pytest.fixture(scope="session")
def session_folder() -> Iterator[Path]:
    """A folder outside of pytest's, which the embedded server's account can pass."""
    with open_folder() as folder:
        yield folder


@pytest.fixture
def data_dir(session_folder: Path) -> Iterator[Path]:
    """The test's own TOOLBOX_DATA_DIR: not there yet; a server left in it is stopped at the end."""
    folder = session_folder / uuid.uuid4().hex[:8]
    yield folder
    if folder.exists():
        EmbeddedServer(folder).stop()
        shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def isolated_environment(tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the developer's reaches a test: neither variables (libpq's included) nor a ``.env``."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name == "DATABASE_URL" or name.startswith(("EMBEDDING_", "TOOLBOX_", "PG")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TOOLBOX_DATA_DIR", str(data_dir))


@pytest.fixture(scope="session")
def server(session_folder: Path) -> Iterator[EmbeddedServer]:
    """The session's server, without durability.

    And without autovacuum, which comes when it likes: it would hold the table's lock in the one test, tidy an index
    in the other. Not by an option of its command line, which ``ALTER SYSTEM`` could not take back where one is wanted.
    """
    server = EmbeddedServer(session_folder / "session", FAST_OPTIONS)
    with server.use():
        configure(server.conninfo("postgres"), autovacuum="off")
        yield server


@pytest.fixture
def empty_database(server: EmbeddedServer) -> Iterator[str]:
    """The conninfo of a new, empty database, dropped at the end."""
    conninfo = create_database(server)
    yield conninfo
    drop_database(server, conninfo)


@pytest.fixture(scope="session")
def registry_template(server: EmbeddedServer) -> str:
    """The name of a database that was migrated from nothing, at 8 dimensions with an unknown model."""
    name = "template_registry"
    migrate_blocking(create_database(server, name), target())
    return name


@pytest.fixture
def registry_database(server: EmbeddedServer, registry_template: str) -> Iterator[str]:
    """The conninfo of a migrated, empty registry of the test's own, dropped at the end."""
    conninfo = clone(server, registry_template)
    yield conninfo
    drop_database(server, conninfo)


@pytest.fixture(scope="session")
def alembic_template(server: EmbeddedServer) -> str:
    """The name of a database as the ToolBox server's Alembic revision 001 leaves it (tests/fixtures)."""
    name = "template_alembic"
    load_alembic(create_database(server, name))
    return name


@pytest.fixture
def alembic_database(server: EmbeddedServer, alembic_template: str) -> Iterator[str]:
    """The conninfo of a registry of the field, not adopted yet, dropped at the end."""
    conninfo = clone(server, alembic_template)
    yield conninfo
    drop_database(server, conninfo)
