"""The command line. A command parses, calls one core function and renders."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from toolbox_cli import __version__
from toolbox_cli.cli import db_commands, embedding_commands, schema_commands, search_commands, tool_commands
from toolbox_cli.cli.errors import guarded

app = typer.Typer(
    name="toolbox",
    help="Keep the embeddings of a tool registry right: migrate, reindex, verify and search.",
    no_args_is_help=False,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
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
tool_commands.register(app)
app.add_typer(db_commands.app, name="db")


def main(arguments: list[str] | None = None) -> None:
    """The console script: ends the process with the exit code of the contract."""
    given = sys.argv[1:] if arguments is None else arguments
    code = guarded(
        lambda: app(args=given or ["--help"], prog_name="toolbox", standalone_mode=False),
        as_json="--json" in given,
    )
    sys.exit(code)
