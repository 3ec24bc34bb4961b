"""A walk through a JSON text of any length in bounded memory: bytes in, whole values out.

The text is only *delimited* here (quotes and brackets, which UTF-8 leaves alone); what lies between is parsed
by ``json`` once it is complete. So a value is scanned once however many reads it takes to arrive, and one
that is too large is refused before anything is built from it.
"""

from __future__ import annotations

import re
from typing import Protocol

#: The largest single entry, in bytes. The longest tool of eight public collections has 60 kB.
MAX_ENTRY_BYTES = 16 * 1024 * 1024
CHUNK_BYTES = 64 * 1024

#: More levels than this are no tool, and Python's JSON reader would give up as well.
_MAX_DEPTH = 900

# The body of a string, unrolled: no byte can match in two ways, so no input takes quadratic time. Possessive only
# for single bytes: Python before 3.11.5 gets possessive groups wrong (gh-106052).
_BODY = rb'[^"\\\n]*+(?:\\[^\n][^"\\\n]*+)*'
_STRING_BODY = re.compile(_BODY)
#: A whole string, or (group 1) a bracket or the quote of a string that does not end within reach.
_TOKEN = re.compile(rb'"' + _BODY + rb'"|([{}\[\]"])')
_SCALAR_END = re.compile(rb'[\s,:"{}\[\]]')
_NOT_SPACE = re.compile(rb"[^ \t\r\n]")
_CLOSER = {ord("{"): ord("}"), ord("["): ord("]")}
_QUOTE, _BACKSLASH = ord('"'), ord("\\")


class ByteSource(Protocol):
    """Anything opened for reading in binary mode."""

    def read(self, size: int, /) -> bytes: ...


class JsonStreamError(Exception):
    """The text cannot be followed any further; ``line`` is where, from 1."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


class BrokenJsonError(JsonStreamError):
    """The structure is lost: a bracket or quote is missing, or the text ends too early."""


class TooLargeError(JsonStreamError):
    """One value is larger than the limit."""


class JsonStream:
    """A cursor over a binary stream. Holds at most ``limit`` bytes and two reads."""

    def __init__(self, source: ByteSource, *, limit: int = MAX_ENTRY_BYTES) -> None:
        self._read = source.read
        self._limit = limit
        self._buffer = bytearray()
        self._position = 0
        self._mark: tuple[int, int] | None = None
        self._ended = False
        #: The line of the next byte, from 1.
        self.line = 1

    def head(self) -> bytes:
        """The first read's worth of what is not consumed yet; empty at the end of the text."""
        while len(self._buffer) - self._position < CHUNK_BYTES and self._fill():
            pass
        return bytes(self._buffer[self._position : self._position + CHUNK_BYTES])

    def mark(self) -> None:
        """Keep what is read from here on, until ``rewind``; TooLargeError if that is more than the limit."""
        self._mark = (self._position, self.line)

    def rewind(self) -> None:
        """Back to where ``mark`` was called."""
        if self._mark is not None:
            self._position, self.line = self._mark
            self._mark = None

    def skip_bytes(self, count: int) -> None:
        """Consume bytes that are known to be there."""
        self._advance(self._position + count)

    def peek(self) -> str | None:
        """The next character that is not white space, None at the end. Consumes the white space."""
        while True:
            match = _NOT_SPACE.search(self._buffer, self._position)
            if match is not None:
                self._advance(match.start())
                return chr(self._buffer[self._position])
            self._advance(len(self._buffer))
            if not self._fill():
                return None

    def take(self, character: str) -> bool:
        """Consume ``character`` if it comes next after white space."""
        if self.peek() != character:
            return False
        self._advance(self._position + 1)
        return True

    def expect(self, *characters: str) -> str:
        """Consume the next character, which has to be one of ``characters``; raises BrokenJsonError."""
        found = self.peek()
        if found is None:
            raise BrokenJsonError("the text ends too early", self.line)
        if found not in characters:
            wanted = " or ".join(characters)
            raise BrokenJsonError(f"expected {wanted}, found {ascii(found)[1:-1]}", self.line)
        self._advance(self._position + 1)
        return found

    def value(self) -> bytes:
        """Consume the next value whole. Raises BrokenJsonError, or TooLargeError beyond the limit."""
        self.peek()
        start = self._position
        end = self._end_of_value(keep=True)
        found = bytes(self._buffer[start:end])
        self._advance(end)
        return found

    def skip_value(self) -> None:
        """Consume the next value without keeping it, however long it is. Raises BrokenJsonError."""
        self.peek()
        self._advance(self._end_of_value(keep=False))

    def text_line(self) -> bytes | None:
        """Consume one line, without its line feed; None at the end. Raises TooLargeError beyond the limit."""
        start = searched = self._position
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if not self._fill(start):
                end = searched
                break
        self._check_limit(start, end)
        if end == start and end == len(self._buffer):
            return None
        found = bytes(self._buffer[start:end])
        self._advance(min(end + 1, len(self._buffer)))
        return found

    def _end_of_value(self, *, keep: bool) -> int:
        """The index after the value that begins at the position. Moves the position along unless ``keep``."""
        start = at = self._position
        first = self._byte_at(at, start, keep=keep)
        if first in b",:}]":
            raise BrokenJsonError(f"expected a value, found {chr(first)}", self.line)
        if first not in b'"{[':
            return self._end_of_scalar(start, keep=keep)
        closers = bytearray()
        in_string = first == _QUOTE
        if not in_string:
            closers.append(_CLOSER[first])
        at += 1
        while in_string or closers:
            at = self._available(at, start, keep=keep)
            # Piece by piece: a regular expression remembers every repetition, and a string may hold millions.
            end = min(len(self._buffer), at + CHUNK_BYTES)
            if not in_string:
                at, in_string = self._follow_brackets(at, end, closers)
                continue
            at = _end_of_match(_STRING_BODY, self._buffer, at, end)
            if at == end:
                continue
            if self._buffer[at] == _QUOTE:
                in_string = False
                at += 1
            elif self._buffer[at] == _BACKSLASH and at + 1 == len(self._buffer):
                self._fill_or_break(start if keep else None)
            elif self._buffer[at] != _BACKSLASH or at + 1 < end:
                raise BrokenJsonError("a string is not closed on its line", self._line_at(at))
        if keep:
            self._check_limit(start, at)
        return at

    def _follow_brackets(self, at: int, end: int, closers: bytearray) -> tuple[int, bool]:
        """From outside of a string up to ``end``, or the bracket that closes the value, or into a long string."""
        for token in _TOKEN.finditer(self._buffer, at, end):
            if token.lastindex is None:
                continue
            found = self._buffer[token.start()]
            if found == _QUOTE:
                return token.end(), True
            if found in _CLOSER:
                closers.append(_CLOSER[found])
                if len(closers) > _MAX_DEPTH:
                    line = self._line_at(token.start())
                    raise BrokenJsonError(f"nested more than {_MAX_DEPTH} levels deep", line)
            elif closers.pop() != found:
                line = self._line_at(token.start())
                raise BrokenJsonError(f"found {chr(found)} that closes nothing", line)
            elif not closers:
                return token.end(), False
        return end, False

    def _end_of_scalar(self, start: int, *, keep: bool) -> int:
        at = start
        while (match := _SCALAR_END.search(self._buffer, at)) is None:
            at = len(self._buffer)
            if not keep:
                self._advance(at)
                at = len(self._buffer)
            if not self._fill(start if keep else None):
                return len(self._buffer)
        return match.start()

    def _byte_at(self, at: int, start: int, *, keep: bool) -> int:
        return self._buffer[self._available(at, start, keep=keep)]

    def _available(self, at: int, start: int, *, keep: bool) -> int:
        """``at`` where its byte is in the buffer, after reading on and dropping what need not be kept."""
        while at >= len(self._buffer):
            if not keep:
                self._advance(at)
                at = self._position
            self._fill_or_break(start if keep else None)
        return at

    def _fill_or_break(self, start: int | None) -> None:
        if not self._fill(start):
            raise BrokenJsonError("the text ends in the middle of a value", self.line)

    def _line_at(self, index: int) -> int:
        return self.line + self._buffer.count(b"\n", self._position, index)

    def _advance(self, to: int) -> None:
        self.line = self._line_at(to)
        self._position = to
        if self._mark is None and to >= CHUNK_BYTES:
            del self._buffer[:to]
            self._position = 0

    def _fill(self, start: int | None = None) -> bool:
        """Read on; False at the end. ``start`` is the index from which the bytes have to be kept."""
        if self._ended:
            return False
        if self._mark is not None:
            start = self._mark[0]
        if start is not None:
            self._check_limit(start, len(self._buffer))
        chunk = self._read(CHUNK_BYTES)
        self._ended = not chunk
        self._buffer += chunk
        return bool(chunk)

    def _check_limit(self, start: int, end: int) -> None:
        if end - start > self._limit:
            # Where it began, not where the patience ended.
            line = self._mark[1] if self._mark is not None else self.line
            raise TooLargeError(f"the entry is larger than {self._limit // (1024 * 1024)} MiB", line)


def _end_of_match(pattern: re.Pattern[bytes], buffer: bytearray, at: int, end: int) -> int:
    """Where a pattern that also matches nothing at all stops."""
    match = pattern.match(buffer, at, end)
    return at if match is None else match.end()
