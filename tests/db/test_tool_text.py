"""``toolbox_tool_text`` and ``toolbox_fingerprint``: the one text of a tool, and what a vector was made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import psycopg
import pytest
from support.postgres import clone, drop_database

from toolbox_cli.db.embedded import EmbeddedServer


@pytest.fixture(scope="module")
def session(server: EmbeddedServer, registry_template: str) -> Iterator[psycopg.Connection]:
    """One database for all: the functions are pure."""
    conninfo = clone(server, registry_template)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        yield connection
    drop_database(server, conninfo)


def text_of(session: psycopg.Connection, name: str, description: str | None = "", schema: str | None = "{}") -> str:
    row = session.execute("SELECT toolbox_tool_text(%s, %s, %s::json)", [name, description, schema]).fetchone()
    assert row is not None
    return str(row[0])


def schema(*parameters: str) -> str:
    return json.dumps({"type": "object", "properties": {name: {"type": "string"} for name in parameters}})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("snake_case_name", "snake case name"),
        ("camelCaseName", "camel Case Name"),
        ("PascalCase", "Pascal Case"),
        ("dotted.name.list", "dotted name list"),
        ("kebab-case", "kebab case"),
        ("path/to:thing", "path to thing"),
        ("parseHTMLDocument", "parse HTML Document"),
        ("HTTPServer", "HTTP Server"),
        ("getURL", "get URL"),
        ("s3Bucket", "s3 Bucket"),
        ("with spaces", "with spaces"),
        ("__double__under__", "double under"),
        ("calculator", "calculator"),
        ("größeÄndern", "größeÄndern"),
        ("東京", "東京"),
        ("two\nlines", "two lines"),
        ("_", ""),
    ],
)
def test_name_is_split_into_words(session: psycopg.Connection, name: str, words: str) -> None:
    assert text_of(session, name) == words


def test_whole_text(session: psycopg.Connection) -> None:
    text = text_of(session, "getOrder_list", "  List the orders.\n", schema("customer_id", "maxItems"))
    assert text == "get Order list: List the orders.\nParameters: customer id, max Items"


@pytest.mark.parametrize("description", ["", None, " \t\r\n "])
def test_empty_description(session: psycopg.Connection, description: str | None) -> None:
    assert text_of(session, "a_tool", description, schema("x")) == "a tool\nParameters: x"


@pytest.mark.parametrize(
    "input_schema",
    [None, "{}", "[]", '["text"]', '"text"', "42", "null", '{"properties": []}', '{"properties": null}',
     '{"properties": {}}', '{"properties": "x"}', '{"type": "object"}', '{"Properties": {"x": {}}}'],
)  # fmt: skip
def test_schemas_that_name_no_parameter(session: psycopg.Connection, input_schema: str | None) -> None:
    assert text_of(session, "tool", "Does it", input_schema) == "tool: Does it"


@pytest.mark.parametrize(
    ("input_schema", "parameters"),
    [
        # Legal in a json column, and an error for whoever reads a key from it.
        (r'{"properties": {"a": {"default": "\u0000"}, "b": {}}}', "a, b"),
        (r'{"title": "\ud83d", "properties": {"a": {}}}', "a"),
        (r'{"title": "\uDEAD\ud800", "properties": {"a": {}}}', "a"),
        (r'{"properties": {"nul\u0000key": {}, "b": {}}}', "nul\N{REPLACEMENT CHARACTER}key, b"),
        (r'{"properties": {"\uDC00": {}}}', "\N{REPLACEMENT CHARACTER}"),
        # An escaped backslash before a u is no escape, and an ordinary escape is left alone.
        (r'{"title": "\\u0000", "properties": {"a": {}}}', "a"),
        (r'{"title": "\\\\ud800", "properties": {"a": {}}}', "a"),
        (r'{"properties": {"stra\u00dfe": {}}}', "straße"),
        (r'{"properties": {"two\nlines": {}}}', "two lines"),
        (r'{"properties": {"q\"uote": {}, "back\\slash": {}}}', 'q"uote, back\\slash'),
        (r'{"properties": {"": {}}}', ""),
        (r'{"properties": {"$ref": {}, "x-y": {}}}', "$ref, x y"),
    ],
)
def test_odd_keys(session: psycopg.Connection, input_schema: str, parameters: str) -> None:
    assert text_of(session, "tool", "Does it", input_schema) == f"tool: Does it\nParameters: {parameters}"


def test_order_of_the_parameters_is_that_of_the_schema(session: psycopg.Connection) -> None:
    assert text_of(session, "t", "", schema("zebra", "apple", "mango")) == "t\nParameters: zebra, apple, mango"


def test_a_name_cannot_pass_for_parameters(session: psycopg.Connection) -> None:
    assert text_of(session, "a\nParameters: b") != text_of(session, "a", "", schema("b"))


def test_very_long_input(session: psycopg.Connection) -> None:
    many = [f"parameter_{number}" for number in range(5_000)]
    text = text_of(session, "n" * 255, "d" * 1_000_000, schema(*many))
    assert text.startswith("n" * 255 + ": ddd")
    assert text.endswith("parameter 4999")
    assert len(text) > 1_000_000


def test_text_of_the_real_column_types(session: psycopg.Connection) -> None:
    """varchar and json, as in the table, find the function with the casts of our queries."""
    row = session.execute(
        "SELECT toolbox_tool_text(name::text, description::text, input_schema)"
        " FROM (SELECT 'aB'::varchar(255) AS name, 'c'::text AS description, '{}'::json AS input_schema) t"
    ).fetchone()
    assert row == ("a B: c",)


PARTS = {"model": "m", "dimension": 8, "prefix": "p: ", "template": 1, "text": "a tool"}


def fingerprint(session: psycopg.Connection, **changed: object) -> bytes:
    parts = PARTS | changed
    row = session.execute(
        "SELECT toolbox_fingerprint(%(model)s, %(dimension)s, %(prefix)s, %(template)s, %(text)s)", parts
    ).fetchone()
    assert row is not None
    return bytes(row[0])


def test_fingerprint_is_the_same_again(session: psycopg.Connection) -> None:
    assert fingerprint(session) == fingerprint(session)
    # Stored for years: another value would make every vector of every registry stale.
    assert fingerprint(session) == hashlib.sha256(b"m\x1f8\x1fp: \x1f1\x1fa tool").digest()[:16]


@pytest.mark.parametrize(
    "changed",
    [{"model": "n"}, {"dimension": 9}, {"prefix": ""}, {"prefix": "p:"}, {"template": 2}, {"text": "a tool "},
     {"model": None}],
)  # fmt: skip
def test_fingerprint_changes_with_each_part(session: psycopg.Connection, changed: dict[str, object]) -> None:
    assert fingerprint(session, **changed) != fingerprint(session)


def test_parts_cannot_run_into_one_another(session: psycopg.Connection) -> None:
    assert fingerprint(session, prefix="a", template=1, text="b") != fingerprint(
        session, prefix="a1", template=1, text="b"
    )
    assert fingerprint(session, model="m8", dimension=1) != fingerprint(session, model="m", dimension=81)


@pytest.mark.parametrize(
    "call", ["toolbox_tool_text(relname::text, 'x', '{}')", "toolbox_fingerprint('m', 8, '', 1, relname::text)"]
)
def test_both_run_in_parallel(session: psycopg.Connection, call: str) -> None:
    with session.transaction():
        session.execute(
            "SET LOCAL parallel_setup_cost = 0; SET LOCAL parallel_tuple_cost = 0;"
            "SET LOCAL min_parallel_table_scan_size = 0; SET LOCAL debug_parallel_query = on"
        )
        plan = session.execute(f"EXPLAIN (VERBOSE) SELECT count({call}) FROM pg_class").fetchall()
    lines = [str(line) for (line,) in plan]
    gather = next(number for number, line in enumerate(lines) if "Gather" in line)
    below = [line for line in lines[gather + 1 :] if "toolbox_" in line]
    assert below, f"the function is not computed below Gather: {lines}"


def test_functions_do_not_depend_on_the_session(session: psycopg.Connection) -> None:
    """Other settings of a client must not make another text: fingerprints are compared across hosts."""
    name, input_schema = "fooBAR_bazQux", r'{"properties": {"a\u0000B": {}, "cD": {}}}'
    before = text_of(session, name, "d\\u0000", input_schema)
    with session.transaction():
        session.execute(
            "SET LOCAL standard_conforming_strings = on; SET LOCAL client_encoding = 'UTF8';"
            "SET LOCAL lc_messages = 'C'; SET LOCAL search_path = pg_catalog, public; SET LOCAL datestyle = 'German'"
        )
        assert text_of(session, name, "d\\u0000", input_schema) == before
