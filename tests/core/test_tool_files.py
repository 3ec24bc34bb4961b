"""Files of tools as they come: every shape, every way to be broken, any size in bounded memory."""

from __future__ import annotations

import gzip
import io
import json
import os
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toolbox_cli.core.catalog_data import open_sample
from toolbox_cli.core.json_stream import MAX_ENTRY_BYTES, JsonStream
from toolbox_cli.core.tool_files import (
    BadEntry,
    Entry,
    create_export_file,
    open_tool_file,
    read_entries,
)
from toolbox_cli.core.tool_shapes import UnusableEntryError, new_tool
from toolbox_cli.domain.errors import InvalidUsageError
from toolbox_cli.domain.transfer import MAX_JSON_DEPTH

OURS = {"name": "add", "description": "Add numbers", "input_schema": {"type": "object"}}
MCP = {"name": "add", "description": "Add numbers", "inputSchema": {"type": "object"}}
FUNCTION = {"name": "add", "description": "Add numbers", "parameters": {"type": "object"}}
CHAT = {"type": "function", "function": FUNCTION}
FLAT = {"type": "function", **FUNCTION, "strict": True}


def read(data: bytes | str, **options: Any) -> list[Entry | BadEntry]:
    raw = data.encode() if isinstance(data, str) else data
    return list(read_entries(io.BytesIO(raw), **options))


def names(items: list[Entry | BadEntry]) -> list[str | None]:
    return [
        new_tool(item.payload).name if isinstance(item, Entry) else f"line {item.line}: {item.error}" for item in items
    ]


def refused(data: bytes | str, **options: Any) -> InvalidUsageError:
    with pytest.raises(InvalidUsageError) as caught:
        read(data, **options)
    return caught.value


@pytest.mark.parametrize("indent", [None, 0, 2], ids=["one line", "no indent", "pretty"])
@pytest.mark.parametrize(
    "document",
    [
        {"jsonrpc": "2.0", "id": 1, "result": {"tools": [MCP, MCP], "nextCursor": "x"}},
        {"result": {"_meta": {"tools": 1}, "tools": [MCP, MCP]}, "jsonrpc": "2.0"},
        {"tools": [MCP, MCP]},
        [MCP, MCP],
        [CHAT, CHAT],
        [FLAT, CHAT],
        {"functions": [FUNCTION, FUNCTION], "model": "m"},
        {"model": "m", "messages": [{"role": "user", "content": '"tools": ['}], "tools": [CHAT, FLAT]},
        {"functions": [FUNCTION], "tools": [CHAT]},
        {"tools": [], "result": {"tools": [MCP, MCP]}},
    ],
)
def test_every_document_shape(document: Any, indent: int | None) -> None:
    items = read(json.dumps(document, indent=indent))
    assert names(items) == ["add", "add"]


@pytest.mark.parametrize("entry", [OURS, MCP, FUNCTION, CHAT, FLAT])
def test_every_line_shape(entry: dict[str, Any]) -> None:
    items = read(f"{json.dumps(entry)}\n\n{json.dumps(OURS)}\r\n{json.dumps(MCP)}")
    assert names(items) == ["add", "add", "add"]
    assert [item.line for item in items] == [1, 3, 4]


def test_single_tool_on_many_lines_and_pages_one_after_the_other() -> None:
    assert names(read(json.dumps(MCP, indent=2))) == ["add"]
    page = json.dumps({"result": {"tools": [MCP]}})
    assert names(read(f"{page}\n{page}\n")) == ["add", "add"]


def test_lines_of_elements_are_those_of_the_file() -> None:
    text = '\n\n{"tools":\n [\n  {"name": "a"},\n\n  {"name":\n "b"}, {"name": "c"}\n]}\n'
    assert [item.line for item in read(text)] == [5, 7, 8]


def test_byte_order_mark_is_accepted() -> None:
    assert names(read(b"\xef\xbb\xbf" + json.dumps(OURS).encode())) == ["add"]
    assert names(read(b"\xef\xbb\xbf" + json.dumps([MCP]).encode())) == ["add"]


@pytest.mark.parametrize("empty", ["[]", '{"tools": []}', '{"result": {"tools": [ ]}}'])
def test_list_without_tools_is_no_error(empty: str) -> None:
    assert read(empty) == []


def test_bad_lines_do_not_stop_the_rest() -> None:
    text = b"\n".join(
        [
            b'{"name": "broken", "description": ',
            json.dumps(OURS).encode(),
            b"nonsense",
            b'{"name": "caf\xe9", "description": "latin-1"}',
            b'{"name": "nul\x00", "description": "x"}',
            b'{"name": "nan", "x": NaN}',
            b"[1, 2]",
            b'{"name": "digits", "x": ' + b"9" * 5000 + b"}",
            b'{"name": "deep", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
            json.dumps(MCP).encode(),
        ]
    )
    items = read(text)
    assert [type(item) for item in items] == [BadEntry, Entry, *[BadEntry] * 7, Entry]
    bad = {item.line: (item.name, item.error) for item in items if isinstance(item, BadEntry)}
    assert bad[1] == ("broken", "not valid JSON: expecting value (column 35)")
    assert bad[3] == (None, "not valid JSON: expecting value (column 1)")
    assert "not UTF-8: byte 0xe9" in bad[4][1]
    assert "NUL byte" in bad[5][1]
    assert "NaN" in bad[6][1]
    assert bad[7] == (None, "expected an object, found a list")
    assert "too many digits" in bad[8][1]
    assert bad[9] == ("deep", "nested too deeply")


@pytest.mark.parametrize("first", ["# my tools", '{"name": "a", "x": {', '{"name": "a"', '{"name": "a', "{]"])
def test_a_broken_first_line_costs_only_itself(first: str) -> None:
    items = read(f"{first}\n{json.dumps(OURS)}\n{json.dumps(OURS)}\n")
    assert [type(item) for item in items] == [BadEntry, Entry, Entry]
    assert items[0].line == 1


def test_broken_element_that_can_be_delimited_costs_only_itself() -> None:
    items = read('{"tools": [\n {"name": "a"},\n {"name": "b",},\n 7,\n {"name": "c", "description": ""}\n]}')
    assert [type(item) for item in items] == [Entry, BadEntry, BadEntry, Entry]
    assert items[1] == BadEntry(3, "b", items[1].error)  # type: ignore[union-attr]  # checked above
    assert items[2] == BadEntry(4, None, "expected an object, found a number")


@pytest.mark.parametrize(
    ("rest", "line"),
    [
        ('{"name": "b"', 3),  # cut off
        ('{"name": "b}\n]', 3),  # a quote is missing
        ('{"name": ["b"}]', 3),  # a bracket is missing
        ('{"name": "b"} {"name": "c"}]', 3),  # a comma is missing
        (']\n"more"', 4),  # too much
    ],
)
def test_what_came_before_a_broken_structure_is_kept(rest: str, line: int) -> None:
    items = read('[{"name": "z"},\n {"name": "a"},\n' + rest if rest[0] != "]" else '[{"name": "a"}\n\n' + rest)
    assert isinstance(items[0], Entry)
    assert isinstance(items[-1], BadEntry)
    assert items[-1].line == line
    assert "nothing after it was read" in items[-1].error


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b" \n\t\n", "is empty"),
        (b"\n" * 300_000, "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (json.dumps(MCP).encode("utf-16"), "UTF-16"),
        (json.dumps(MCP).encode("utf-16-le"), "UTF-16"),
        (json.dumps(MCP).encode("utf-16-be"), "UTF-16"),
        (gzip.compress(b"{}"), "compressed (gzip)"),
        (bytes(range(256)) * 40, "is not JSON"),
        (b"\x7fELF" + bytes(500), "binary"),
        (b"name,description\nadd,Add numbers\n", "is not JSON: it begins with 'name,description'"),
        (b"<html>", "is not JSON"),
        (b'"text"', "is not JSON"),
        (b"[1, 2, 3]", "not a list of tools: expected an object, found a number"),
        (b'{"tools": ["a"]}', "not a list of tools"),
        (b'{"tools": [{"name": "a"', "is not valid JSON: line 1"),
        (b'{\n "tools" [\n', "line 2: expected :, found ["),
        (b"{\n 'tools': []\n}", "line 2: expected"),
    ],
)
def test_what_is_no_file_of_tools_is_refused_with_a_clear_word(data: bytes, said: str) -> None:
    error = refused(data)
    assert said in error.message
    assert error.hint
    assert error.exit_code == 2


def test_format_forces_one_shape() -> None:
    assert "begins with a JSON list" in refused(json.dumps([OURS]), file_format="jsonl").message
    assert names(read(json.dumps({**OURS, "tools": []}), file_format="jsonl")) == ["add"]
    assert new_tool(MCP, file_format="mcp") == new_tool(OURS)
    assert new_tool(CHAT, file_format="openai") == new_tool(OURS)
    with pytest.raises(UnusableEntryError, match="expected an MCP tool"):
        new_tool(CHAT, file_format="mcp")
    with pytest.raises(UnusableEntryError, match="not an OpenAI function"):
        new_tool(MCP, file_format="openai")


def test_mcp_extras() -> None:
    annotations = {"title": "Adds", "readOnlyHint": True}
    tool = new_tool({"name": "a", "title": "T", "inputSchema": {}, "annotations": annotations, "icons": []})
    assert tool.description == "T"
    assert tool.metadata == {"annotations": annotations, "title": "T"}
    assert new_tool({"name": "a", "inputSchema": {}, "annotations": annotations}).description == "Adds"
    bare = new_tool({"name": "a", "inputSchema": {"x": 1}, "outputSchema": {"y": 2}, "description": None})
    assert (bare.description, bare.input_schema, bare.output_schema) == ("", {"x": 1}, {"y": 2})
    assert (bare.category, bare.implementation_type, bare.version) == ("general", "external", "1.0.0")
    assert "description" not in bare.model_fields_set
    assert new_tool(MCP, category="math").category == "math"
    assert new_tool({**MCP, "category": "own"}, category="math").category == "own"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "n" * 256}, "name has 256 characters, at most 255 are possible"),
        ({"name": ""}, "name is empty"),
        ({"name": " \t"}, "name is blank"),
        ({"name": 7}, "name: expected a string, found a number"),
        ({"name": None}, "name is missing"),
        ({"name": "a\0b"}, "name holds a NUL character"),
        ({"description": "\ud800"}, "description holds half of a surrogate pair"),
        ({"category": "c" * 101}, "category has 101 characters"),
        ({"tags": "a,b"}, "tags: expected a list, found a string"),
        ({"tags": ["a", 3]}, "tags[1]: expected a string, found a number"),
        ({"is_active": "yes"}, "is_active: expected true or false, found a string"),
        ({"version": "1" * 51}, "version has 51 characters"),
        ({"input_schema": [1]}, "input_schema: expected an object, found a list"),
        ({"inputSchema": "x"}, "inputSchema: expected an object, found a string"),
        ({"input_schema": {"a": [{"b\0": 1}]}}, "input_schema holds a NUL character"),
        ({"metadata": {"x": ["\udfff"]}}, "metadata holds half of a surrogate pair"),
        ({"output_schema": {"x": 1e999}}, "output_schema holds a number that is too large"),
        ({"input_schema": json.loads('{"a":' * 201 + "1" + "}" * 201)}, f"more than {MAX_JSON_DEPTH} levels"),
    ],
)
def test_entries_that_a_registry_cannot_hold(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UnusableEntryError) as caught:
        new_tool({**OURS, **change})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({"name": "John", "age": 30}, "not a tool"),
        ({"type": "web_search"}, "built-in tool of type 'web_search'"),
        (
            {"jsonrpc": "2.0", "id": 1, "error": {"code": -32601, "message": "no such method"}},
            "no such method",
        ),
    ],
)
def test_objects_that_are_no_tools(payload: dict[str, Any], said: str) -> None:
    with pytest.raises(UnusableEntryError, match=said):
        new_tool(payload)


def test_longest_name_counts_characters() -> None:
    assert len(new_tool({**OURS, "name": "𝒯" * 255}).name) == 255


class Generated:
    """A stream that is made while it is read, one piece after the other."""

    name = "made.json"

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._left = b""
        self.given = 0

    def read(self, size: int, /) -> bytes:
        if not self._left:
            self._left = next(self._pieces, b"")
        piece, self._left = self._left[:size], self._left[size:]
        self.given += len(piece)
        return piece


def endless(beginning: bytes, filler: bytes, end: bytes = b"") -> Iterator[bytes]:
    """More than 300 MB, in pieces of 1 MiB."""
    yield beginning
    piece = filler * (2**20 // len(filler))
    for _ in range(310):
        yield piece
    yield end


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    ("beginning", "filler", "said"),
    [
        (b'{"name": "big", "description": "', b"x", "larger than 16 MiB"),
        (b'{"tools": [{"name": "big", "description": "', b"\xc3\xa9\\n", "larger than 16 MiB"),
        (b'[{"name": "big", "x": [', b"[],", "larger than 16 MiB"),
        (b'[{"name": "big", "x": [', b'"' + b"\\" * 99_999 + b'n",', "larger than 16 MiB"),
        (b"[", b"[", "nested more than"),
        (b'{"x": ', b"7", "larger than 16 MiB"),
        (b'{"', b"k", "larger than 16 MiB"),
        (b"{", b" ", "larger than 16 MiB"),
    ],
)
def test_an_entry_without_end_is_refused_in_bounded_memory(beginning: bytes, filler: bytes, said: str) -> None:
    source = Generated(endless(beginning, filler))
    begun = time.monotonic()
    with pytest.raises(InvalidUsageError, match=said):
        list(read_entries(source))
    assert tracemalloc.get_traced_memory()[1] < 60 * 2**20
    assert source.given < MAX_ENTRY_BYTES + 2**21
    assert time.monotonic() - begun < 15


@pytest.mark.usefixtures("traced")
def test_an_entry_without_end_ends_the_reading_and_keeps_what_came_before() -> None:
    good = json.dumps(OURS).encode()
    for beginning in (good + b'\n{"name": "', b"[" + good + b',\n{"name": "'):
        items = list(read_entries(Generated(endless(beginning, b"x"))))
        assert isinstance(items[0], Entry)
        assert isinstance(items[1], BadEntry)
        assert items[1].line == 2
        assert "larger than 16 MiB" in items[1].error
        assert len(items) == 2
    assert tracemalloc.get_traced_memory()[1] < 60 * 2**20


def test_three_hundred_megabytes_beside_the_list_are_passed_over_in_bounded_memory() -> None:
    """What follows the list is no entry: it may be of any size."""
    tracemalloc.start()
    beginning = b'{"tools": [' + json.dumps(MCP).encode() + b'], "more": "'
    items = list(read_entries(Generated(endless(beginning, b"x", b'"}'))))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert names(items) == ["add"]
    assert peak < 10 * 2**20


def test_many_entries_on_one_line_take_no_more_memory_than_one() -> None:
    tracemalloc.start()
    element = json.dumps({**MCP, "description": "d" * 100_000}).encode() + b","
    pieces = [b"[", *[element * 10] * 30, element[:-1], b"]"]
    count = sum(isinstance(item, Entry) for item in read_entries(Generated(iter(pieces))))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 301
    assert peak < 8 * 2**20


def test_two_gigabytes_of_zeros_are_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "zeros.json"
    path.touch()
    os.truncate(path, 2 * 2**30)
    begun = time.monotonic()
    with open_tool_file(path) as source, pytest.raises(InvalidUsageError, match="binary data"):
        next(read_entries(source))
    assert time.monotonic() - begun < 1


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    for path, said in [
        (tmp_path, "is a directory"),
        (tmp_path / "none.json", "does not exist"),
        ("a\0b", "cannot be opened"),
        (tmp_path / ("n" * 300), "cannot be opened"),
    ]:
        with pytest.raises(InvalidUsageError, match=said), open_tool_file(path):
            pass


def test_read_error_is_a_usage_error() -> None:
    class Failing:
        name = "disk.json"

        def read(self, size: int, /) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(InvalidUsageError, match=r"disk\.json cannot be read: Input/output error"):
        next(read_entries(Failing()))


def test_export_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("before")
    with pytest.raises(RuntimeError), create_export_file(path) as sink:
        sink.write(b"half")
        raise RuntimeError
    assert path.read_text() == "before"
    with create_export_file(path) as sink:
        sink.write(b"whole")
    assert path.read_text() == "whole"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.jsonl"]
    for bad in (tmp_path, tmp_path / "none" / "out.jsonl", "a\0b"):
        with pytest.raises(InvalidUsageError), create_export_file(bad):
            pass
    with create_export_file("/dev/null") as sink:
        sink.write(b"x")
    assert Path("/dev/null").is_char_device()


def test_the_bundled_catalogue_reads_without_a_failure() -> None:
    with open_sample() as source:
        items = list(read_entries(source))
    tools = [new_tool(item.payload) for item in items if isinstance(item, Entry)]
    assert len(tools) == len(items) >= 150
    assert len({tool.name for tool in tools}) == len(tools)
    assert len({tool.category for tool in tools}) >= 12


text_values = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text_values,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text_values, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(text_values, json_values, max_size=4)


class Dripping(io.BytesIO):
    """A pipe that hands over a few bytes at a time."""

    def __init__(self, data: bytes, step: int) -> None:
        super().__init__(data)
        self._step = step

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(self._step)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    entries=st.lists(objects, min_size=1, max_size=5),
    indent=st.sampled_from([None, 0, 1, 3]),
    ascii_only=st.booleans(),
    step=st.integers(1, 40),
    wrap=st.sampled_from(["list", "tools", "functions", "result", "lines"]),
)
def test_whatever_json_writes_is_read_again(
    entries: list[dict[str, Any]], indent: int | None, ascii_only: bool, step: int, wrap: str
) -> None:
    if wrap == "lines":
        # A line of its own can be told from a document only by what no tool has: a list under one of these keys.
        entries = [{"name": "a", **entry} for entry in entries]
        text = "\n".join(json.dumps(entry, ensure_ascii=ascii_only) for entry in entries)
    else:
        shaped: Any = {"list": entries, "result": {"id": 1, "result": {"tools": entries}}}.get(wrap, {wrap: entries})
        text = json.dumps(shaped, indent=indent, ensure_ascii=ascii_only)
    items = list(read_entries(Dripping(text.encode(), step)))
    assert [item.payload for item in items if isinstance(item, Entry)] == entries
    assert not [item for item in items if isinstance(item, BadEntry)]


@settings(deadline=None, max_examples=300)
@given(
    data=st.binary(max_size=60) | st.text('{}[]",:\\\n tolsname10', max_size=60).map(str.encode),
    step=st.integers(1, 9),
)
def test_no_input_escapes_the_two_ways_to_refuse(data: bytes, step: int) -> None:
    try:
        items = list(read_entries(Dripping(data, step)))
    except InvalidUsageError as error:
        assert error.message
        assert "\n" not in error.message
    else:
        assert all(isinstance(item, Entry | BadEntry) for item in items)
        assert [item.line for item in items] == sorted(item.line for item in items)


@settings(deadline=None)
@given(values=st.lists(json_values, min_size=1, max_size=6), step=st.integers(1, 9))
def test_values_are_delimited_wherever_a_read_ends(values: list[Any], step: int) -> None:
    text = ",\n".join(json.dumps(value, indent=1) for value in values) + ","
    stream = JsonStream(Dripping(text.encode(), step))
    found = []
    while stream.peek() is not None:
        found.append(json.loads(stream.value()))
        stream.expect(",")
    assert found == values
    assert stream.line == text.count("\n") + 1
