"""Errors and notes on stderr, without any heavy import: an error must show even where rich is broken."""

from __future__ import annotations

import json
import sys


def error(kind: str, message: str, hint: str | None, *, as_json: bool) -> None:
    """``{"error": {"type", "message", "hint"}}`` or two lines of text."""
    if as_json:
        sys.stderr.write(json.dumps({"error": {"type": kind, "message": message, "hint": hint}}, ensure_ascii=False))
        sys.stderr.write("\n")
        return
    sys.stderr.write(f"error: {_one_line(message)}\n")
    if hint:
        sys.stderr.write(f"hint: {_one_line(hint)}\n")


def note(message: str) -> None:
    """A remark that is no error, and no result either."""
    sys.stderr.write(f"note: {_one_line(message)}\n")


def _one_line(text: str) -> str:
    return " ".join(text.split())
