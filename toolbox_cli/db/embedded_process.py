"""The embedded server's processes and the locks that tell who lives: PostgreSQL's programs, flock,
postmaster.pid.

The locks are ``flock`` locks. The kernel drops them with the last process that holds the open file, however
it died; and unlike POSIX record locks (``lockf``, what fasteners uses) they are not lost when another part
of the same process opens and closes the file, and two users within one process count as two.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from toolbox_cli.db.embedded_paths import POSTGRES_MAJOR, Account, Installation
from toolbox_cli.domain.errors import DatabaseError, LockBusyError, StateError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

PORT = 5432
SUPERUSER = "postgres"
#: Seconds between two looks at a file that another process is about to change.
POLL_INTERVAL = 0.003
_LOG_LINES_SHOWN = 6
_LOG_ROTATED_AT_BYTES = 1_000_000


def open_lock(path: Path) -> int:
    """Open a lock file, created if need be; its lock ends when the last copy of the descriptor is closed."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Take the lock, or answer False at once if another open file stands against it."""
    import fcntl

    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def opened_lock(path: Path) -> Iterator[int]:
    """The descriptor of a lock file, closed (and so unlocked) at the end."""
    descriptor = open_lock(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock. Probes by taking it: call this only where that cannot mislead
    others."""
    if not path.exists():
        return False
    with opened_lock(path) as descriptor:
        return not try_lock(descriptor)


@contextlib.contextmanager
def exclusive(path: Path, timeout: float) -> Iterator[None]:
    """Hold the lock; raises LockBusyError after ``timeout`` seconds of waiting."""
    with opened_lock(path) as descriptor:
        deadline = time.monotonic() + timeout
        while not try_lock(descriptor):
            if time.monotonic() > deadline:
                raise LockBusyError(
                    f"others have been starting or stopping the embedded server for {timeout:.0f} s",
                    hint=f"See who holds {path} (fuser, lsof), and try again when it is done.",
                )
            time.sleep(POLL_INTERVAL)
        yield


@dataclass(frozen=True)
class Postmaster:
    """What ``postmaster.pid`` says; a server killed by force leaves the file behind."""

    pid: int
    socket_dir: Path
    status: str

    @property
    def ready(self) -> bool:
        return self.status == "ready"

    def listens(self) -> bool:
        """Whether anybody accepts connections on the socket, in whatever state it is."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(1.0)
            try:
                client.connect(str(self.socket_dir / f".s.PGSQL.{PORT}"))
            except OSError:
                return False
        return True


def read_postmaster(pgdata: Path) -> Postmaster | None:
    """Read ``postmaster.pid``; None if it is missing or not written to its end yet.

    Lines: pid, data folder, start time, port, socket folder, listen address, shared memory, status.
    """
    try:
        lines = (pgdata / "postmaster.pid").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    if len(lines) < 8 or not lines[0].strip().isdigit():
        return None
    return Postmaster(int(lines[0]), Path(lines[4]), lines[7].strip())


def clear_remnants(pgdata: Path, socket_dir: Path) -> None:
    """Remove lock files of a dead server whose process id another process has by now.

    PostgreSQL takes any live process of its own user for its predecessor and refuses to start. In a
    container, where process ids are few, that is the rule after a hard stop, not the exception. The caller
    has made sure that no server lives. Files with a dead id stay: PostgreSQL also learns from them whether
    an old backend is left.
    """
    for path in (pgdata / "postmaster.pid", socket_dir / f".s.PGSQL.{PORT}.lock"):
        try:
            # Empty after a crash of the machine: PostgreSQL refuses such a file as well.
            first = path.read_text(encoding="utf-8").split("\n", 1)[0].strip()
            if first.isdigit():
                os.kill(int(first), 0)
            path.unlink()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue


def environment() -> dict[str, str]:
    """A fresh environment: PGPORT, PGDATA and the like would change the server, and HOME may not be
    enterable.

    LC_ALL=C keeps messages in English, and macOS needs some locale or PostgreSQL will not start.
    """
    kept = ("TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    return {"PATH": os.defpath, "LC_ALL": "C"} | {name: os.environ[name] for name in kept if name in os.environ}


def launch(argv: Sequence[str], account: Account | None, log: Path, alive_lock: int) -> subprocess.Popen[bytes]:
    """Start the postmaster as a child that outlives us, in a session of its own so that Ctrl-C passes it by.

    It inherits ``alive_lock``: the lock is held as long as it or any of its own children lives.
    """
    if log.exists() and log.stat().st_size > _LOG_ROTATED_AT_BYTES:
        log.replace(log.with_name(f"{log.name}.1"))
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=environment(),
            start_new_session=True,
            pass_fds=(alive_lock,),
            umask=0o077,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
    finally:
        os.close(output)


def run(argv: Sequence[str], account: Account | None, *, text: str = "") -> str:
    """What a program of PostgreSQL's says on stdout; raises DatabaseError with its last words if it fails."""
    completed = subprocess.run(
        argv,
        input=text,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
        cwd="/",
        env=environment(),
        umask=0o077,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    )
    if completed.returncode != 0:
        raise DatabaseError(
            f"{Path(argv[0]).name} failed with exit code {completed.returncode}:\n"
            f"{last_lines(completed.stderr or completed.stdout)}"
        )
    return completed.stdout


def last_lines(text: str) -> str:
    """The last few lines, indented, for a message."""
    lines = [line for line in text.splitlines() if line.strip()]
    return "\n".join(f"  {line}" for line in lines[-_LOG_LINES_SHOWN:]) or "  (nothing was said)"


def log_since(log: Path, offset: int) -> str:
    """What was logged after byte ``offset``; a rotated log counts from its beginning."""
    try:
        content = log.read_bytes()
    except FileNotFoundError:
        return ""
    return content[offset if offset <= len(content) else 0 :].decode("utf-8", "replace")


def check_version(pgdata: Path) -> bool:
    """False if ``pgdata`` does not exist or is empty, True if it is a complete data folder of our version.

    Raises StateError for another version's folder, and for one that is no data folder: nothing is deleted
    in it, because a data folder of ours is moved to this name only when it is complete.
    """
    try:
        found = (pgdata / "PG_VERSION").read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        if not pgdata.exists() or not any(pgdata.iterdir()):
            return False
        raise StateError(
            f"{pgdata} is not empty and has no PG_VERSION: it is not, or no longer, a PostgreSQL data folder",
            hint="Move it away to begin with an empty database, or set TOOLBOX_DATA_DIR to another folder.",
        ) from None
    if found != str(POSTGRES_MAJOR):
        raise StateError(
            f"{pgdata} was made by PostgreSQL {found}, expected PostgreSQL {POSTGRES_MAJOR}",
            hint=f"Dump it with PostgreSQL {found}, move the folder away and restore the dump; "
            "or set TOOLBOX_DATA_DIR to another folder.",
        )
    return True


def initialise(
    pgdata: Path,
    installation: Installation,
    account: Account | None,
    options: Mapping[str, str],
    database: str,
) -> None:
    """Make a new data folder with one empty UTF-8 database; raises DatabaseError.

    It is made under another name beside ``pgdata`` and renamed when complete, so that a run killed half-way
    leaves only rubbish, which the next one removes. initdb writes everything through to the disk before the
    rename; that (half a second) is left out only if the caller runs the server without fsync anyway.
    """
    for leftover in pgdata.parent.glob(f"{pgdata.name}.init-*"):
        # An initdb that outlived its killed parent may still be writing there: then the next run gets the
        # rest.
        shutil.rmtree(leftover, ignore_errors=True)
    building = Path(tempfile.mkdtemp(prefix=f"{pgdata.name}.init-", dir=pgdata.parent))
    try:
        if account is not None:
            os.chown(building, account.uid, account.gid)
        durable = options.get("fsync") != "off"
        run(
            [
                str(installation.binary("initdb")),
                f"--pgdata={building}",
                f"--username={SUPERUSER}",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
                # Sorting is the builtin provider's. Text search still asks the C library what a letter is,
                # and macOS has no C.UTF-8 there.
                "--locale=C",
                f"--lc-ctype={'en_US.UTF-8' if sys.platform == 'darwin' else 'C.UTF-8'}",
                "--no-instructions",
                *(() if durable else ("--no-sync",)),
            ],
            account,
        )
        fsync = "on" if durable else "off"
        single = [
            "--single",
            "-c",
            f"fsync={fsync}",
            "-c",
            "exit_on_error=on",
            "-D",
            str(building),
            "postgres",
        ]
        run([str(installation.binary("postgres")), *single], account, text=f"CREATE DATABASE {database}\n")
        building.rename(pgdata)
    finally:
        shutil.rmtree(building, ignore_errors=True)
