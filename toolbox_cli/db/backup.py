"""``--backup FILE``: pg_dump before anything is changed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from toolbox_cli.db.faults import database_errors
from toolbox_cli.domain.errors import ConfigurationError, DatabaseError, InvalidUsageError


def dump(conninfo: str, path: Path) -> None:
    """Write the whole database to a new file: plain SQL where the name ends in ``.sql``, else pg_dump's own format.

    The file appears only when the dump is complete. Raises InvalidUsageError for a file that exists or cannot be
    written, ConfigurationError where no pg_dump of the server's age is found, DatabaseError when it fails.
    """
    if path.exists():
        raise InvalidUsageError(f"{path} exists already", hint="Name a new file for the backup; nothing was done.")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise InvalidUsageError(f"{path.parent} is no folder that can be written to", hint="Nothing was done.")
    program = _program(_server_major(conninfo))
    parameters = conninfo_to_dict(conninfo)
    password = parameters.pop("password", None)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    command = [
        str(program),
        f"--format={'plain' if path.suffix == '.sql' else 'custom'}",
        f"--file={partial}",
        f"--dbname={make_conninfo('', **parameters)}",
    ]
    # On the command line every user of the machine could read the password.
    environment = os.environ | ({"PGPASSWORD": str(password)} if password else {})
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = " ".join(done.stderr.split())[:300]
            raise DatabaseError(f"the backup failed, so nothing was changed: {said}", hint="See what pg_dump says.")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _server_major(conninfo: str) -> int:
    with database_errors(), psycopg.connect(conninfo) as connection:
        return connection.info.server_version // 10_000


def _program(server_major: int) -> Path:
    """A pg_dump at least as new as the server: it refuses to dump a newer one."""
    found: list[str] = []
    for candidate in _candidates():
        done = subprocess.run([str(candidate), "--version"], capture_output=True, text=True, check=False)
        match = re.search(r"\) (\d+)", done.stdout)
        if match and int(match.group(1)) >= server_major:
            return candidate
        found.append(f"{candidate} ({done.stdout.strip() or 'does not start'})")
    raise ConfigurationError(
        f"no pg_dump of version {server_major} or later: found {', '.join(found) or 'none'}",
        hint=f"Install PostgreSQL's client programs {server_major}, or leave --backup out.",
    )


def _candidates() -> list[Path]:
    from toolbox_cli.db.embedded_paths import find_installation

    in_path = shutil.which("pg_dump")
    candidates = [Path(in_path)] if in_path else []
    # The extra "embedded" may not be installed; it is only a second chance.
    with suppress(ConfigurationError):
        candidates.append(find_installation().binary("pg_dump"))
    return candidates
