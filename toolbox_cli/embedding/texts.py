"""What a text must be before it can be sent."""

from __future__ import annotations

import re

from toolbox_cli.domain.errors import InputRefusedError

_SURROGATE = re.compile("[\ud800-\udfff]")


def sendable(text: str) -> str:
    """The text as UTF-8 JSON can carry it: NUL dropped, each surrogate replaced by U+FFFD.

    PostgreSQL stores neither, but queries and files come from elsewhere, and services answer 400 or 500 to
    both.
    """
    if "\x00" in text:
        text = text.replace("\x00", "")
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def prepare(text: str, prefix: str) -> str:
    """The sendable text behind its prefix; raises InputRefusedError when the text itself is blank.

    Services answer blank texts with an error for the whole batch, or with a vector of the prefix alone.
    """
    clean = sendable(text)
    if not clean.strip():
        raise InputRefusedError("nothing to embed: the text is blank")
    return prefix + clean
