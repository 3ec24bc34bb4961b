"""Any size in bounded memory, any JSON however it arrives, and no input that escapes."""

from __future__ import annotations

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

from toolbox_cli.core.json_stream import MAX_ENTRY_BYTES, JsonStream
from toolbox_cli.core.tool_files import BadEntry, Entry, open_tool_file, read_entries
from toolbox_cli.domain.errors import InvalidUsageError

OURS = {"name": "add", "description": "Add numbers", "input_schema": {"type": "object"}}


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
        (
            b'[{"name": "big", "x": [',
            b'[["some longer text that is followed by a few numbers", 12345678, 90123456, null]],',
            "larger than 16 MiB",
        ),
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
    beginning = b'{"tools": [' + json.dumps(OURS).encode() + b'], "more": "'
    items = list(read_entries(Generated(endless(beginning, b"x", b'"}'))))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert items == [Entry(1, OURS, len(json.dumps(OURS)))]
    assert peak < 10 * 2**20


def test_many_entries_on_one_line_take_no_more_memory_than_one() -> None:
    tracemalloc.start()
    element = json.dumps({**OURS, "description": "d" * 100_000}).encode() + b","
    pieces = [b"[", *[element * 10] * 30, element[:-1], b"]"]
    count = sum(isinstance(item, Entry) for item in read_entries(Generated(iter(pieces))))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 301
    assert peak < 8 * 2**20


def test_gigabytes_of_zeros_are_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "zeros.json"
    path.touch()
    os.truncate(path, 16 * 2**30)
    begun = time.monotonic()
    with open_tool_file(path) as source, pytest.raises(InvalidUsageError, match="binary data"):
        next(read_entries(source))
    assert time.monotonic() - begun < 3


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
    refusals = []
    items = []
    try:
        items = list(read_entries(Dripping(data, step)))
    except InvalidUsageError as error:
        refusals.append(error.message)
    assert all(message and "\n" not in message for message in refusals)
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
