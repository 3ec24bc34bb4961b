"""Files of tools as they come: every shape, every way to be broken, any size in bounded memory."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest

from toolbox_cli.core.catalog_data import open_sample
from toolbox_cli.core.tool_files import (
    BadEntry,
    Entry,
    create_export_file,
    open_tool_file,
    read_entries,
)
from toolbox_cli.core.tool_shapes import UnusableEntryError, new_tool
from toolbox_cli.domain.errors import InvalidUsageError

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
        (gzip.compress(b"{}", mtime=0), "compressed (gzip)"),
        (bytes(range(1, 256)) * 40, "binary data"),
        (b"\x7fELF" + bytes(500), "binary"),
        (b"name,description\nadd,Add numbers\n", "is not JSON: it begins with 'name,description'"),
        (b"<html>", "is not JSON"),
        ("größe: 3".encode("latin-1"), "is not JSON"),
        (b"\x89PNG\r\n\x1a\n" + b"\x01" * 99, "is binary data"),
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


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    for path, said in [
        (str(tmp_path), "is a directory"),
        ("", "is empty"),
        (str(tmp_path / "none.json"), "does not exist"),
        ("a\0b", "cannot be opened"),
        (str(tmp_path / ("n" * 300)), "cannot be opened"),
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

    def export_half() -> None:
        with create_export_file(path) as sink:
            sink.write(b"half")
            raise ConnectionError

    with pytest.raises(ConnectionError):
        export_half()
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
