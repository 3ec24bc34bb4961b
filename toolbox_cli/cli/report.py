"""Errors and notes on stderr, without any heavy import: an error must show even where rich is broken."""

from __future__ import annotations

import json
import sys
import unicodedata

_UNFIT = frozenset({"Cc", "Cs", "Zl", "Zp"})
#: They turn the direction of what follows, so that a text reads as another one.
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def error(kind: str, message: str, hint: str | None, *, as_json: bool) -> None:
    """``{"error": {"type", "message", "hint"}}`` or two lines of text."""
    if as_json:
        sys.stderr.write(json.dumps({"error": {"type": kind, "message": message, "hint": hint}}, ensure_ascii=False))
        sys.stderr.write("\n")
        return
    sys.stderr.write(f"error: {plain(message)}\n")
    if hint:
        sys.stderr.write(f"hint: {plain(hint)}\n")


def note(message: str) -> None:
    """A remark that is no error, and no result either."""
    sys.stderr.write(f"note: {plain(message)}\n")


def plain(text: str, *, lines: bool = False) -> str:
    """Text of a registry or a service, fit for a terminal: nothing in it moves the cursor or hides what follows.

    On one line, unless ``lines``.
    """
    if not lines:
        text = " ".join(text.split())
    if text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if (unicodedata.category(character) in _UNFIT and character not in "\n\t") or character in _BIDI
        else character
        for character in text
    )
