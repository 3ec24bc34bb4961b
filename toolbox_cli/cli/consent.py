"""Asking an operator on a terminal."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

import typer

from toolbox_cli.core.generation import Consent

if TYPE_CHECKING:
    from toolbox_cli.domain.changes import Outline


def given(*, yes: bool, force: bool, as_json: bool) -> Consent:
    """Ask where somebody can answer: with a terminal on both sides, and a person reading text."""
    interactive = sys.stdin.isatty() and sys.stderr.isatty() and not as_json
    return Consent(yes=yes, force=force, ask=_ask if interactive else None)


def _ask(outline: Outline) -> bool:
    for phrase in outline.questions:
        typer.echo(phrase, err=True)
    for phrase in outline.retires:
        typer.echo(f"set aside: {phrase}", err=True)
    for phrase in outline.losses:
        typer.echo(f"LOST FOR GOOD: {phrase}", err=True)
    # asyncio only notes the first Ctrl-C, and looks at it when the answer has been typed.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return typer.confirm("Go on?", default=False, err=True)
    finally:
        signal.signal(signal.SIGINT, before)
