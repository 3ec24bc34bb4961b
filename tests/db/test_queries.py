"""Every statement of every ``.sql`` file is one that PostgreSQL takes, against a migrated database."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources

import psycopg
import pytest
from psycopg import sql
from support.postgres import clone, drop_database

from toolbox_cli.db.embedded import EmbeddedServer
from toolbox_cli.db.indexes import shape_for
from toolbox_cli.db.queries import load, query
from toolbox_cli.db.text_index import CONFIGURATION, lexemes

FOLDER = resources.files("toolbox_cli.db")
MODULES = sorted(entry.name.removesuffix(".sql") for entry in FOLDER.iterdir() if entry.name.endswith(".sql"))
STATEMENTS = [(module, name) for module in MODULES for name in load(module)]

_SHAPE = shape_for(8)
#: What stands in braces, filled in as the code does it for the current column of 8 dimensions.
PARTS: dict[str, sql.Composable] = {
    "column": sql.Identifier("embedding"),
    "fingerprint": sql.Identifier("embedding_fingerprint"),
    "expression": _SHAPE.expression("t", "embedding"),
    "operator": sql.SQL("<=>"),
    "configuration": sql.Literal(CONFIGURATION),
    "lexemes": lexemes("t"),
    "probe": _SHAPE.probe(sql.Placeholder("vector")),
}
#: Parameters whose type the driver gives with the value, and PostgreSQL cannot guess from the statement alone.
TYPES = {"vectors": "vector[]"}

_PLACEHOLDER = re.compile(r"%\((\w+)\)s")


def numbered(text: str) -> tuple[str, list[str]]:
    """``%(name)s`` as ``$n``, the way psycopg sends it, and the types to declare."""
    names: list[str] = []

    def number(match: re.Match[str]) -> str:
        if match.group(1) not in names:
            names.append(match.group(1))
        return f"${names.index(match.group(1)) + 1}"

    numbered_text = _PLACEHOLDER.sub(number, text).replace("%%", "%")
    return numbered_text, [TYPES.get(name, "unknown") for name in names]


def braces(module: str, name: str) -> set[str]:
    return set(re.findall(r"(?<!\{)\{(\w+)\}(?!\})", load(module)[name]))


@pytest.fixture(scope="module")
def connection(server: EmbeddedServer, registry_template: str) -> Iterator[psycopg.Connection]:
    conninfo = clone(server, registry_template)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        # Made by a cutover and gone after it.
        connection.execute("CREATE TABLE embedding_changes (tool_id bigint NOT NULL)")
        yield connection
    drop_database(server, conninfo)


def test_there_are_statements() -> None:
    assert len(STATEMENTS) > 40
    assert {"schema", "locks", "search", "embeddings", "inspection", "tools"} <= set(MODULES)


@pytest.mark.parametrize(("module", "name"), STATEMENTS, ids=[f"{module}.{name}" for module, name in STATEMENTS])
def test_statement_prepares(connection: psycopg.Connection, module: str, name: str) -> None:
    unknown = braces(module, name) - set(PARTS)
    assert not unknown, f"tell PARTS what {unknown} stands for"
    text = query(module, name, **PARTS).as_string(connection)
    statement, types = numbered(text)
    declared = f" ({', '.join(types)})" if types else ""
    connection.execute(f"PREPARE tried{declared} AS {statement}")
    connection.execute("DEALLOCATE tried")


@pytest.mark.parametrize("module", MODULES)
def test_every_statement_says_what_it_is_for(module: str) -> None:
    text = FOLDER.joinpath(f"{module}.sql").read_text(encoding="utf-8")
    assert text.startswith("-- name: "), "nothing before the first name would be read"
    assert len(re.findall(r"^-- name: ", text, re.MULTILINE)) == len(load(module)), "two statements of one name"
    for name, body in load(module).items():
        first = body.splitlines()[0]
        assert re.fullmatch(r"-- \w.{10,}", first), f"{name}: a line of intent comes first, found {first!r}"
        statement = "\n".join(line for line in body.splitlines() if not line.startswith("--")).strip()
        assert statement.endswith(";"), name
        assert statement.count(";") == 1, f"{name}: one statement"


def test_values_are_bound_not_formatted() -> None:
    """A brace is an identifier or a piece of SQL of ours, never a value."""
    used = {part for module, name in STATEMENTS for part in braces(module, name)}
    assert used <= set(PARTS)
