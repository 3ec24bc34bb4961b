"""The command line. A command parses, calls one core function and renders."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from toolbox_cli import __version__
from toolbox_cli.cli import (
    compare_commands,
    db_commands,
    embedding_commands,
    schema_commands,
    search_commands,
    tool_commands,
)
from toolbox_cli.cli.errors import guarded
from toolbox_cli.cli.help import CommandGroup

# Typer's help with rich loads for 0.33 s instead of 0.14 s and keeps the line breaks of our docstrings.
app = typer.Typer(
    name="toolbox",
    cls=CommandGroup,
    help="Keep the embeddings of a tool registry right: migrate, reindex, verify and search.",
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"toolbox {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end."),
    ] = False,
) -> None:
    """Keep the embeddings of a tool registry right: migrate, reindex, verify and search.

    The registry is the PostgreSQL database of DATABASE_URL, or an embedded one where that is not set.
    """


schema_commands.register(app)
embedding_commands.register(app)
search_commands.register(app)
compare_commands.register(app)
tool_commands.register(app)
app.add_typer(db_commands.app, name="db")


def main(arguments: list[str] | None = None) -> None:
    """Carry out a command line; raises SystemExit with the exit code of the contract."""
    given = sys.argv[1:] if arguments is None else arguments
    if sys.stdout is None:  # started with a closed output (">&-")
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - for as long as the process lives
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that knows no "█" gets a "?", not a traceback.
        sys.stdout.reconfigure(errors="replace")
    code = guarded(
        lambda: app(args=_or_help(given), prog_name="toolbox", standalone_mode=False),
        arguments=given,
        as_json="--json" in given,
    )
    sys.exit(code)


def command_path(arguments: Sequence[str]) -> list[str]:
    """The words of a command line that name a command: ``["db", "status"]``."""
    path: list[str] = []
    group: object = typer.main.get_command(app)
    for word in arguments:
        if not isinstance(group, TyperGroup) or word not in group.commands:
            break
        path.append(word)
        group = group.commands[word]
    return path


def _or_help(arguments: list[str]) -> list[str]:
    """A group alone, ``toolbox`` or ``toolbox db``, shows what it has."""
    return [*arguments, "--help"] if arguments in ([], ["db"]) else arguments
