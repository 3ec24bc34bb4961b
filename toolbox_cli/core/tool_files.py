"""Reading tool lists: MCP ``tools/list`` results, OpenAI function definitions, JSONL.

A file is read once and in bounded memory, from a pipe as well. It comes in one of two layouts: *lines*, with
one object on each, or a *document*, with a list of tools somewhere in it. What an entry means is the business
of ``tool_shapes``.
"""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from toolbox_cli.core.json_stream import (
    MAX_ENTRY_BYTES,
    BrokenJsonError,
    ByteSource,
    JsonStream,
    JsonStreamError,
    TooLargeError,
)
from toolbox_cli.domain.errors import InvalidUsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from toolbox_cli.domain.transfer import ImportFormat

EXPECTED = "Expected an MCP tools/list result, OpenAI function definitions, or one JSON object a line, in UTF-8."

_LIST_KEYS = (b'"tools"', b'"functions"')
_BOM = b"\xef\xbb\xbf"
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"\xfd7zXZ\x00": "xz",
    b"(\xb5/\xfd": "zstd",
    b"BZh": "bzip2",
}
#: Above this share of control bytes a file is binary; below it a stray NUL spoils only its own line.
_BINARY_SHARE = 0.05
_TEXT_BYTES = bytes(byte for byte in range(256) if byte >= 32 or byte in b"\t\n\r\f\x1b")
#: The name in a line that cannot be parsed, where it stands right at the beginning.
_LEADING_NAME = re.compile(
    rb'\s*\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?(?:"function"\s*:\s*\{\s*)?"name"\s*:\s*"([^"\\]{1,255})"'
)


@dataclass(frozen=True, slots=True)
class Entry:
    """An object that may be a tool; ``line`` is where it begins, from 1, ``size`` its length in bytes."""

    line: int
    payload: dict[str, Any]
    size: int = 0


@dataclass(frozen=True, slots=True)
class BadEntry:
    """A piece of the file that is no object at all, and why."""

    line: int
    name: str | None
    error: str


@contextmanager
def open_tool_file(path: str | Path, *, what: str = "tools", expected: str = EXPECTED) -> Iterator[BinaryIO]:
    """A file of tools, or of ``what``; standard input for ``-``. Raises InvalidUsageError if it cannot be opened."""
    if str(path) == "-":
        yield sys.stdin.buffer
        return
    if not str(path):
        raise InvalidUsageError("the name of the file is empty", hint="Name a file, or `-` for standard input.")
    try:
        if Path(path).is_dir():
            raise InvalidUsageError(f"{path} is a directory, expected a file of {what}", hint=expected)
        # A named pipe or /dev/stdin is as good as a file.
        opened = open(path, "rb")  # noqa: SIM115 - the time of opening has errors of its own
    except FileNotFoundError as exc:
        raise InvalidUsageError(
            f"{path} does not exist",
            hint=f"Check the path; `-` reads {what} from standard input.",
        ) from exc
    except PermissionError as exc:
        raise InvalidUsageError(
            f"{path} may not be read by this user",
            hint="Grant read permission, or pipe it in and name `-`.",
        ) from exc
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the path
        raise InvalidUsageError(f"{str(path)!r} cannot be opened: {exc}", hint="Check the path.") from exc
    with opened:
        yield opened


@contextmanager
def create_export_file(path: str | Path) -> Iterator[BinaryIO]:
    """Where an export goes: standard output for ``-``, else a file that appears whole or not at all.

    An existing file is replaced at the end; a pipe or device is written to directly.
    Raises InvalidUsageError.
    """
    if str(path) == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    target = Path(path)
    try:
        if target.is_dir():
            raise InvalidUsageError(f"{path} is a directory, expected the name of a file to write")
        target = target.resolve()
        direct = target.exists() and not target.is_file()
        written = target if direct else target.with_name(f".{target.name[:200]}.{os.getpid()}.part")
        opened = open(written, "wb")  # noqa: SIM115 - the time of opening has errors of its own
    except (OSError, ValueError) as exc:
        # An OSError's own words name the file that is written first, which nobody has asked for.
        why = exc.strerror if isinstance(exc, OSError) else exc
        raise InvalidUsageError(f"{path} cannot be written: {why}", hint="Check the folder and its rights.") from exc
    try:
        with opened:
            yield opened
        if not direct:
            written.replace(target)
    finally:
        if not direct:
            written.unlink(missing_ok=True)


def source_name(source: object) -> str:
    """What a message calls the source."""
    name = getattr(source, "name", None)
    if name in ("<stdin>", 0):
        return "standard input"
    return name if isinstance(name, str) else "the input"


def read_entries(
    source: ByteSource, *, file_format: ImportFormat = "auto", limit: int = MAX_ENTRY_BYTES
) -> Iterator[Entry | BadEntry]:
    """The entries of a file in their order; at most ``limit`` bytes of one entry and two reads are held.

    A bad entry does not end the reading as long as it can be told where it ends. Where it cannot, or where an
    entry is larger than ``limit``, the last item is a BadEntry that says so, and what came before stands.
    Raises InvalidUsageError, on the first call of ``next``, for what is no file of tools: empty, binary, no
    JSON, or broken before the first entry.
    """
    name = source_name(source)
    stream = JsonStream(_Readable(source, name), limit=limit)
    head = stream.head()
    _refuse_what_is_no_text(head, name)
    if head.startswith(_BOM):
        stream.skip_bytes(len(_BOM))
    any_seen = False
    try:
        entries = _lines(stream) if _layout(stream, name, file_format) == "lines" else _document(stream)
        for entry in entries:
            any_seen = True
            yield entry
    except JsonStreamError as exc:
        message = f"{exc.message}; nothing after it was read"
        if any_seen:
            yield BadEntry(exc.line, None, message)
            return
        if isinstance(exc, TooLargeError):
            raise InvalidUsageError(
                f"{name} cannot be read entry by entry: {exc.message} (line {exc.line})",
                hint="Write one tool a line, or a JSON list of tools that begins within that many bytes.",
            ) from exc
        raise InvalidUsageError(f"{name} is not valid JSON: line {exc.line}: {exc.message}", hint=EXPECTED) from exc


class _Readable:
    """A source whose read errors are the operator's to mend."""

    def __init__(self, source: ByteSource, name: str) -> None:
        self._source = source
        self._name = name

    def read(self, size: int, /) -> bytes:
        try:
            return self._source.read(size)
        except OSError as exc:
            raise InvalidUsageError(
                f"{self._name} cannot be read: {exc.strerror or exc}",
                hint="Check the file, or copy it first.",
            ) from exc


def _refuse_what_is_no_text(head: bytes, name: str) -> None:
    if not head.removeprefix(_BOM).strip() and len(head) < 1024:
        raise InvalidUsageError(f"{name} is empty", hint=EXPECTED)
    for magic, kind in _COMPRESSED.items():
        if head.startswith(magic):
            raise InvalidUsageError(f"{name} is compressed ({kind})", hint="Decompress it first.")
    alternating = any(head) and (not any(head[1:80:2]) or not any(head[0:80:2]))
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or (len(head) > 3 and alternating):
        raise InvalidUsageError(
            f"{name} is UTF-16 text, expected UTF-8", hint="Convert it: iconv -f UTF-16 -t UTF-8 FILE"
        )
    control_count = len(head.translate(None, delete=_TEXT_BYTES))
    if control_count > len(head) * _BINARY_SHARE:
        raise InvalidUsageError(f"{name} is binary data, expected text", hint=EXPECTED)


def _layout(stream: JsonStream, name: str, file_format: ImportFormat) -> Literal["lines", "document"]:
    """Which of the two layouts this is, from at most the first ``limit`` bytes. Consumes only white space."""
    first = stream.peek()
    if first is None:
        raise InvalidUsageError(f"{name} is empty", hint=EXPECTED)
    if file_format == "jsonl":
        if first == "[":
            raise InvalidUsageError(
                f"{name} begins with a JSON list, expected one object a line",
                hint="Leave --format out: a list of tools is recognised.",
            )
        if first == "{":
            return "lines"
    if first == "[":
        return "document"
    window = stream.head()
    if first != "{":
        if _has_object_line(window):
            return "lines"
        found = window[:40].split(b"\n")[0].decode("utf-8", "replace").strip()
        raise InvalidUsageError(f"{name} is not JSON: it begins with {found!a}", hint=EXPECTED)
    begins_at = stream.line
    stream.mark()
    try:
        has_list = next(_lists(stream), False)
        ends_at = stream.line
    except JsonStreamError:
        # A broken first line must not cost the others. Lines of a document are indented, or end in a comma.
        if _has_object_line(window):
            return "lines"
        raise
    finally:
        stream.rewind()
    return "document" if has_list or ends_at != begins_at else "lines"


def _has_object_line(window: bytes) -> bool:
    return any(line.startswith(b"{") and isinstance(_parse(0, line), Entry) for line in window.splitlines()[1:])


def _lines(stream: JsonStream) -> Iterator[Entry | BadEntry]:
    while True:
        line = stream.line
        raw = stream.text_line()
        if raw is None:
            return
        if raw.strip():
            yield _parse(line, raw)


def _document(stream: JsonStream) -> Iterator[Entry | BadEntry]:
    """JSON values one after the other (the pages of a list, say), each a list of tools or a single tool."""
    while (first := stream.peek()) is not None:
        if first == "[":
            yield from _elements(stream)
            continue
        if first != "{":
            raise BrokenJsonError("expected the end of the file", stream.line)
        stream.mark()
        try:
            has_list = next(_lists(stream), False)
        finally:
            stream.rewind()
        if has_list:
            for _ in _lists(stream):
                yield from _elements(stream)
        else:
            line = stream.line
            yield _parse(line, stream.value())


def _lists(stream: JsonStream, depth: int = 0) -> Iterator[Literal[True]]:
    """Walk through an object; yields wherever a list of tools comes next, which the caller has to consume."""
    stream.expect("{")
    if stream.take("}"):
        return
    while True:
        if stream.peek() != '"':
            stream.expect('"')
        key = stream.value()
        stream.expect(":")
        follows = stream.peek()
        if key in _LIST_KEYS and follows == "[":
            yield True
        elif key == b'"result"' and depth == 0 and follows == "{":
            yield from _lists(stream, depth + 1)
        else:
            stream.skip_value()
        if stream.expect(",", "}") == "}":
            return


def _elements(stream: JsonStream) -> Iterator[Entry | BadEntry]:
    stream.expect("[")
    if stream.take("]"):
        return
    first = True
    while True:
        begins_with = stream.peek()
        line = stream.line
        entry = _parse(line, stream.value())
        if first and begins_with != "{" and isinstance(entry, BadEntry):
            raise BrokenJsonError(f"not a list of tools: {entry.error}", line)
        first = False
        yield entry
        if stream.expect(",", "]") == "]":
            return


class _NotJsonError(ValueError):
    """A word that Python's parser takes and JSON does not know."""


def _refuse_constant(word: str) -> None:
    raise _NotJsonError(f"not valid JSON: {word} is no JSON value")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
_KINDS = {list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}


def _parse(line: int, raw: bytes) -> Entry | BadEntry:
    try:
        payload = _DECODER.decode(raw.decode("utf-8"))
    except UnicodeDecodeError as exc:
        error = f"not UTF-8: byte 0x{raw[exc.start]:02x} at position {exc.start + 1}"
    except json.JSONDecodeError as exc:
        if b"\0" in raw:
            error = "holds a NUL byte, which is not valid JSON"
        else:
            where = f"line {line + exc.lineno - 1}, column {exc.colno}" if exc.lineno > 1 else f"column {exc.colno}"
            error = f"not valid JSON: {exc.msg[0].lower()}{exc.msg[1:]} ({where})"
    except RecursionError:
        error = "nested too deeply"
    except _NotJsonError as exc:
        error = str(exc)
    except ValueError:  # int() refuses more digits than sys.get_int_max_str_digits()
        error = "holds a number of too many digits"
    else:
        if isinstance(payload, dict):
            return Entry(line, payload, len(raw))
        return BadEntry(line, None, f"expected an object, found {_KINDS.get(type(payload), 'null')}")
    match = _LEADING_NAME.match(raw)
    return BadEntry(line, match[1].decode("utf-8", "replace") if match else None, error)
