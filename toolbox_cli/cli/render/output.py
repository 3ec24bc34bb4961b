"""How results leave: one JSON document, or a bar while one waits."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from rich.console import Console

from toolbox_cli.cli.render.progress_bars import BarProgress, NotedProgress

if TYPE_CHECKING:
    from toolbox_cli.domain.ports import Progress


def document(value: BaseModel | dict[str, Any]) -> None:
    """One JSON document on stdout. Text stays readable: nothing but control characters is escaped."""
    data = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    readable = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    # Lone surrogates cannot leave as UTF-8; everything else can.
    text = json.dumps(data, ensure_ascii=not readable, indent=2).encode("utf-8", "backslashreplace").decode("utf-8")
    sys.stdout.write(text + "\n")


def progress() -> Progress:
    """A bar where somebody watches, silence elsewhere."""
    console = Console(stderr=True)
    watched = sys.stderr.isatty() and not console.is_dumb_terminal
    return BarProgress(console) if watched else NotedProgress()


def counted(number: int, what: str) -> str:
    """``1 tool``, ``2 tools``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
