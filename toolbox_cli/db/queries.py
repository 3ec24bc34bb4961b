"""Named queries: SQL lives in ``.sql`` files beside this module, each statement under a ``-- name: x --`` line.

``{braces}`` in a statement stand for identifiers and are filled by ``psycopg.sql``; values are bound as
``%(name)s``. A test PREPAREs every statement against a migrated database.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from psycopg import sql

Row = TypeVar("Row")

_NAME = re.compile(r"^-- name: (\w+) --\s*$", re.MULTILINE)


@cache
def load(module: str) -> Mapping[str, str]:
    """All statements of ``<module>.sql`` by name."""
    text = resources.files("toolbox_cli.db").joinpath(f"{module}.sql").read_text(encoding="utf-8")
    pieces = _NAME.split(text)
    return {name: body.strip() for name, body in zip(pieces[1::2], pieces[2::2], strict=True)}


def always(row: Row | None) -> Row:
    """The row of a statement that returns one whatever the tables hold: an aggregate, or a SELECT without FROM."""
    if row is None:
        raise RuntimeError("a statement that always returns a row returned none")
    return row


def query(module: str, name: str, **parts: sql.Composable) -> sql.Composed:
    """One statement with its identifiers filled in. ``parts`` may only hold composables, never values."""
    from psycopg import sql

    text = load(module)[name]
    return sql.SQL(text).format(**parts)
