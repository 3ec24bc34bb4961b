"""DATABASE_URL in its spellings, and what an operator reads when no session can be had. No message holds a secret."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from support.postgres import embedded, execute
from support.registries import catalogue_of, migrate, opened, rows, value
from support.registries import execute as run

from toolbox_cli.db.connection import connect, conninfo_from_url, session_parameters, unreachable
from toolbox_cli.db.embedded import EmbeddedServer
from toolbox_cli.domain.errors import ConfigurationError, DatabaseError, ToolboxError

SECRET = "hunter2-s3cret"


def everything(exc: ToolboxError) -> str:
    """All that could be shown of an error: message, hint, and the traceback that a log file would get."""
    return "\n".join([exc.message, exc.hint or "", *traceback.format_exception(exc)])


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql+asyncpg://u:p@h:5433/d",
         {"user": "u", "password": "p", "host": "h", "port": "5433", "dbname": "d"}),
        ("postgresql+psycopg://h/d", {"host": "h", "dbname": "d"}),
        ("postgresql://u@h/d", {"user": "u", "host": "h", "dbname": "d"}),
        ("postgres://u@h/d?sslmode=require", {"user": "u", "host": "h", "dbname": "d", "sslmode": "require"}),
        ("host=h port=5433 dbname=d user=u", {"user": "u", "host": "h", "port": "5433", "dbname": "d"}),
        ("host='/srv/with space' dbname=d", {"host": "/srv/with space", "dbname": "d"}),
        ("service=mine", {"service": "mine"}),
        ("  postgresql://h/d\n", {"host": "h", "dbname": "d"}),
        ("postgresql://u:p%40ss%2Fw%3Ard@h/d", {"user": "u", "password": "p@ss/w:rd", "host": "h", "dbname": "d"}),
        ("postgresql:///d?host=/var/run/postgresql", {"dbname": "d", "host": "/var/run/postgresql"}),
        ("postgresql://h1:5432,h2:5433/d", {"host": "h1,h2", "port": "5432,5433", "dbname": "d"}),
        ("postgresql://[::1]:5433/d", {"host": "::1", "port": "5433", "dbname": "d"}),
        ("postgresql+asyncpg://h/d?ssl=require", {"host": "h", "dbname": "d", "sslmode": "require"}),
        ("postgresql+asyncpg://h/d?ssl=true&prepared_statement_cache_size=0",
         {"host": "h", "dbname": "d", "sslmode": "require"}),
        ("postgresql://h/d?options=-c%20search_path%3Da&application_name=x+y",
         {"host": "h", "dbname": "d", "options": "-c search_path=a", "application_name": "x+y"}),
        ("POSTGRESQL://h/d", {"host": "h", "dbname": "d"}),
    ],
)  # fmt: skip
def test_spellings_of_the_url(url: str, expected: dict[str, str]) -> None:
    assert conninfo_to_dict(conninfo_from_url(url)) == expected


@pytest.mark.parametrize(
    "url",
    [
        SECRET,
        f"/{SECRET}",
        f"mysql://root:{SECRET}@h/d",
        f"sqlite:///{SECRET}.db",
        f"{SECRET}://h/d",
        f"http://{SECRET}@h/",
        f"postgresql://u:{SECRET}@h:port/d",
        f"postgresql://u:{SECRET}@h:99999/d",
        f"postgresql://u:{SECRET}@[::1/d",
        f"postgresql://u:a@{SECRET}@h/d",
        f"postgresql://u:%zz{SECRET}@h/d",
        f"postgresql://u@h/d?{SECRET}=1",
        f"password={SECRET} nonsense=1",
        f"password={SECRET} host",
        f"password='{SECRET}",
    ],
)
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        conninfo_from_url(url)
    assert "DATABASE_URL" in caught.value.message
    assert caught.value.hint
    shown = everything(caught.value) if "://" not in url.split(SECRET)[-1] else f"{caught.value.message}"
    assert SECRET not in shown.replace(f"{SECRET}://", "")


def test_session_parameters_keep_what_was_given() -> None:
    made = conninfo_to_dict(session_parameters("host=h connect_timeout=3", command="migrate", connect_timeout=10))
    assert made["connect_timeout"] == "3"
    assert str(made["application_name"]).startswith("toolbox migrate ")
    assert conninfo_to_dict(session_parameters("host=h", command="x", connect_timeout=10))["connect_timeout"] == "10"


async def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError) as caught:
        await connect(f"host={tmp_path} user=u password={SECRET} connect_timeout=2")
    assert "cannot be reached" in caught.value.message
    assert caught.value.hint == "Is the server running, and are host and port in DATABASE_URL right?"
    assert SECRET not in everything(caught.value)


async def test_database_that_does_not_exist(server: EmbeddedServer) -> None:
    with pytest.raises(DatabaseError, match='database "nowhere" does not exist') as caught:
        await connect(server.conninfo("nowhere"))
    assert caught.value.hint == "Create it first, or correct DATABASE_URL."


def test_password_is_cut_out_of_whatever_libpq_says() -> None:
    exc = psycopg.OperationalError(f"could not translate {SECRET} to an address")
    assert SECRET not in unreachable(exc, f"host=h password={SECRET}").message


@pytest.fixture(scope="module")
def strict_server(session_folder: Path) -> Iterator[EmbeddedServer]:
    """A server that asks the role ``operator`` for a password; the socket admits the owner as ever."""
    server = embedded(session_folder / "strict", shared_buffers="16MB")
    with server.use():
        execute(server, f"CREATE ROLE operator LOGIN PASSWORD '{SECRET}'")
        rules = server.data_dir / "pgdata" / "pg_hba.conf"
        rules.write_text("local all operator scram-sha-256\n" + rules.read_text())
        execute(server, "SELECT pg_reload_conf()")
        yield server


@pytest.mark.parametrize("password", [f"not-{SECRET}", "", None], ids=["wrong", "empty", "none"])
async def test_wrong_password(strict_server: EmbeddedServer, password: str | None) -> None:
    given = conninfo_to_dict(strict_server.conninfo("postgres")) | {"user": "operator", "password": password}
    conninfo = psycopg.conninfo.make_conninfo("", **{k: v for k, v in given.items() if v is not None})
    with pytest.raises(DatabaseError) as caught:
        await connect(conninfo)
    assert caught.value.exit_code == 4
    assert caught.value.hint == "Check user and password in DATABASE_URL."
    assert SECRET not in everything(caught.value)


async def test_right_password(strict_server: EmbeddedServer) -> None:
    given = conninfo_to_dict(strict_server.conninfo("postgres")) | {"user": "operator", "password": SECRET}
    connection = await connect(psycopg.conninfo.make_conninfo("", **given))
    await connection.close()


async def test_role_that_may_not_create_the_extension(server: EmbeddedServer, empty_database: str) -> None:
    """pgvector is a trusted extension: it takes CREATE on the database, which this role has not got."""
    run(empty_database, "CREATE ROLE guest LOGIN; GRANT CREATE ON SCHEMA public TO guest")
    try:
        conninfo = psycopg.conninfo.make_conninfo(empty_database, user="guest")
        with pytest.raises(DatabaseError) as caught:
            await migrate(conninfo)
        assert 'permission denied to create extension "vector"' in caught.value.message
        assert "CREATE EXTENSION vector" in (caught.value.hint or "")
        assert not value(empty_database, "SELECT to_regclass('tools') IS NOT NULL")
        # Once a superuser has done that, the role can go on.
        run(empty_database, "CREATE EXTENSION vector")
        await migrate(conninfo)
        assert value(empty_database, "SELECT count(*) FROM _yoyo_migration") == 3
    finally:
        run(empty_database, "DROP OWNED BY guest; DROP ROLE guest")


async def test_role_that_may_not_change_the_table(alembic_database: str) -> None:
    run(alembic_database, "CREATE ROLE reader LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
    try:
        before = rows(alembic_database, "SELECT id, ctid::text FROM tools ORDER BY id")
        with pytest.raises(DatabaseError) as caught:
            await migrate(psycopg.conninfo.make_conninfo(alembic_database, user="reader"))
        assert caught.value.exit_code == 4
        assert "does not permit" in caught.value.message
        assert caught.value.hint
        assert rows(alembic_database, "SELECT id, ctid::text FROM tools ORDER BY id") == before
    finally:
        run(alembic_database, "DROP OWNED BY reader; DROP ROLE reader")


async def test_read_only_server(alembic_database: str) -> None:
    read_only = psycopg.conninfo.make_conninfo(alembic_database, options="-c default_transaction_read_only=on")
    with pytest.raises(DatabaseError, match="only allows reading") as caught:
        await migrate(read_only)
    assert "primary" in (caught.value.hint or "")


@pytest.fixture
def without_pgvector(empty_database: str) -> str:
    """A database whose server offers no extension at all: it looks for their control files in an empty place."""
    name = conninfo_to_dict(empty_database)["dbname"]
    run(empty_database, f"ALTER DATABASE \"{name}\" SET extension_control_path = '/nowhere'")
    return empty_database


async def test_server_without_pgvector(without_pgvector: str) -> None:
    before = catalogue_of(without_pgvector)
    with pytest.raises(DatabaseError) as caught:
        await migrate(without_pgvector)
    assert "the server has no pgvector" in caught.value.message
    assert "Install pgvector" in (caught.value.hint or "")
    assert catalogue_of(without_pgvector) == before
    async with opened(without_pgvector) as registry:
        assert (await registry.server()).pgvector_version is None
