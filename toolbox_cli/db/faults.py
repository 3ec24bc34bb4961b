"""The one place that turns driver errors into domain errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import errors as pg

from toolbox_cli.domain.errors import DatabaseError, InvalidUsageError, LockBusyError, StateError, ToolboxError


@contextmanager
def database_errors() -> Iterator[None]:
    """Re-raise psycopg errors as domain errors, with the driver's error as the cause.

    Text that is no Unicode (half of a surrogate pair, bytes of another encoding on the command line) cannot be sent.
    """
    try:
        yield
    except UnicodeEncodeError as exc:
        raise InvalidUsageError(
            f"{exc.object[:60]!r} is no text that can be stored or looked for", hint="Expected UTF-8."
        ) from exc
    except psycopg.Error as exc:
        raise translate(exc) from exc


def translate(exc: psycopg.Error) -> ToolboxError:
    """The domain error for a driver error: what the server said in one line, and what to do."""
    said = first_line(exc)
    match exc:
        case pg.LockNotAvailable():
            return LockBusyError(
                f"a lock on the registry could not be had in time: {said}",
                hint="Another session holds it; run the command again when its transaction has ended.",
            )
        case pg.InsufficientPrivilege() if "extension" in said:
            return DatabaseError(
                f"the database does not permit this: {said}",
                hint="Have a superuser run CREATE EXTENSION vector in this database once, then run this again.",
            )
        case pg.InsufficientPrivilege():
            return DatabaseError(
                f"the database does not permit this: {said}",
                hint="Connect as the owner of the table, or have the missing right granted.",
            )
        case pg.UndefinedTable() | pg.UndefinedColumn() | pg.UndefinedFunction() | pg.UndefinedObject():
            return StateError(
                f"the schema is not what this command needs: {said}",
                hint="Run `toolbox migrate`, then try again.",
            )
        case pg.DataException() if "dimensions" in said:
            return StateError(
                f"a vector does not fit its column: {said}",
                hint="Run `toolbox status` to see the column's dimension, `toolbox migrate` to change it.",
            )
        case pg.DependentObjectsStillExist():
            return StateError(
                f"other objects stand in the way: {said}{_named(exc)}",
                hint="Nothing of this step was done. Drop them first and create them again afterwards.",
            )
        case pg.QueryCanceled():
            return DatabaseError(f"the database cancelled the statement: {said}", hint="Run the command again.")
        case pg.DiskFull() | pg.OutOfMemory():
            return DatabaseError(
                f"the database server ran out of room: {said}",
                hint="Free space on the server, then run it again.",
            )
        case pg.ReadOnlySqlTransaction():
            return DatabaseError(
                f"the database only allows reading: {said}", hint="Point DATABASE_URL at the primary server."
            )
        case psycopg.OperationalError():
            return DatabaseError(
                f"the connection to the database was lost: {said}",
                hint="What was committed is kept; run the command again when the server is back.",
            )
    return DatabaseError(f"the database refused a statement: {said} (SQLSTATE {exc.sqlstate})")


def _named(exc: psycopg.Error) -> str:
    """The objects that the server lists in its detail, on one line."""
    detail = " ".join((exc.diag.message_detail or "").split())
    return f": {detail[:200]}" if detail else ""


def first_line(exc: psycopg.Error) -> str:
    """The server's own message in one line, without the parts that quote whole statements."""
    text = exc.diag.message_primary or str(exc)
    line = " ".join(text.split())
    return line if len(line) <= 300 else line[:297] + "…"
