"""Where a connection comes from: the spellings of DATABASE_URL, and how a session is set up."""

from __future__ import annotations

import os
import re
import socket
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from toolbox_cli.db.faults import first_line
from toolbox_cli.domain.errors import ConfigurationError, DatabaseError

_SCHEMES = ("postgresql", "postgres")
_EXPECTED = (
    "Set DATABASE_URL to postgresql://USER:PASSWORD@HOST:PORT/DATABASE (special characters percent-encoded) or to"
    " libpq's key=value form; without it the embedded server is used."
)
#: asyncpg's and SQLAlchemy's own parameters, and what libpq calls them (None: it has no such thing).
_FOREIGN_PARAMETERS = {"ssl": "sslmode", "prepared_statement_cache_size": None, "statement_cache_size": None}
_SSL_WORDS = {"true": "require", "false": "disable", "1": "require", "0": "disable"}


def conninfo_from_url(url: str) -> str:
    """libpq's connection string for any of the three spellings of ``DATABASE_URL``.

    SQLAlchemy's ``postgresql+asyncpg://``, libpq's ``postgresql://`` and ``key=value``. Raises ConfigurationError
    without repeating any part of the value: it may hold a password.
    """
    text = url.strip()
    if "://" in text:
        text = _libpq_url(text)
    elif "=" not in text:
        raise ConfigurationError("DATABASE_URL is neither a URL nor libpq's key=value form", hint=_EXPECTED)
    try:
        parameters = conninfo_to_dict(text)
        return make_conninfo("", **parameters)
    except psycopg.Error:
        # libpq's words quote the piece that it stumbled over, which may be a part of the password.
        raise ConfigurationError("DATABASE_URL cannot be understood by PostgreSQL's client", hint=_EXPECTED) from None


def _libpq_url(url: str) -> str:
    scheme = url.split("://", 1)[0]
    base = scheme.split("+", 1)[0].lower()
    if base not in _SCHEMES:
        shown = scheme if re.fullmatch(r"[A-Za-z][\w+.-]{0,30}", scheme) else "…"
        raise ConfigurationError(f"DATABASE_URL begins with {shown}://, expected postgresql://", hint=_EXPECTED)
    try:
        parts = urlsplit(url)
        # libpq takes several hosts (host1:5432,host2:5432), where Python's port is no number.
        _ = None if "," in parts.netloc else parts.port
    except ValueError:
        raise ConfigurationError("DATABASE_URL is not a valid URL (host or port)", hint=_EXPECTED) from None
    if parts.netloc.count("@") > 1:
        raise ConfigurationError(
            "DATABASE_URL holds more than one @ before the database name",
            hint="Percent-encode special characters of the password: @ is %40, / is %2F, : is %3A.",
        )
    parameters: list[tuple[str, str]] = []
    # To libpq a plus is a plus, and not a space as in web forms.
    for key, value in parse_qsl(parts.query.replace("+", "%2B"), keep_blank_values=True):
        name = _FOREIGN_PARAMETERS.get(key, key)
        if name is not None:
            parameters.append((name, _SSL_WORDS.get(value.lower(), value) if key == "ssl" else value))
    # urlunsplit would leave "//" out where there is no host, as in postgresql:///database?host=/run/postgresql.
    query = f"?{urlencode(parameters, quote_via=quote)}" if parameters else ""
    return f"postgresql://{parts.netloc}{parts.path}{query}"


def application_name(command: str) -> str:
    """What others see in ``pg_stat_activity``: at most 63 bytes, PostgreSQL's limit."""
    return f"toolbox {command} {socket.gethostname()[:30]}:{os.getpid()}"[:63]


def session_parameters(conninfo: str, *, command: str, connect_timeout: int) -> str:
    """The connection string with our own name and time-out, where the operator gave none."""
    given = conninfo_to_dict(conninfo)
    extra: dict[str, str | int] = {"application_name": application_name(command)}
    if "connect_timeout" not in given:
        extra["connect_timeout"] = connect_timeout
    return make_conninfo(conninfo, **extra)


async def connect(conninfo: str) -> psycopg.AsyncConnection:
    """A session in autocommit mode. Raises DatabaseError with the server's words and a hint."""
    try:
        connection = await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
    except psycopg.OperationalError as exc:
        raise unreachable(exc, conninfo) from exc
    # Results never depend on the client's zone. What is checked again after a lock was waited for must be what is there
    # then, which an older snapshot would not see.
    await connection.execute("SET timezone TO 'UTC'; SET default_transaction_isolation TO 'read committed'")
    return connection


def unreachable(exc: psycopg.OperationalError, conninfo: str) -> DatabaseError:
    """Why no session could be opened; never holds the password."""
    password = conninfo_to_dict(conninfo).get("password")
    # libpq asks "Is the server running …?" in the same breath; that is what our hint is for.
    said = first_line(exc).split(" Is the server running", 1)[0]
    if password:
        said = said.replace(str(password), "***")
    if "password authentication failed" in said or "no password supplied" in said:
        hint = "Check user and password in DATABASE_URL."
    elif "does not exist" in said:
        hint = "Create it first, or correct DATABASE_URL."
    elif "no pg_hba.conf entry" in said:
        hint = "The server does not admit this user from this host (pg_hba.conf), or wants sslmode=require."
    else:
        hint = "Is the server running, and are host and port in DATABASE_URL right?"
    return DatabaseError(f"the database cannot be reached: {said}", hint=hint)
