"""db start | stop | status | url | shell: the embedded server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from toolbox_cli.cli import options
from toolbox_cli.cli.help import CommandGroup
from toolbox_cli.cli.runtime import Services, run

if TYPE_CHECKING:
    from toolbox_cli.db.embedded import ServerStatus

app = typer.Typer(cls=CommandGroup, help="The embedded PostgreSQL that is used where DATABASE_URL is not set.")


@app.command()
def start(json: options.JsonOption = False) -> None:
    """Start the embedded server and keep it running until `toolbox db stop`."""
    from toolbox_cli.cli import render

    async def action(services: Services) -> ServerStatus:
        server = services.embedded_server
        server.start()
        return server.status()

    render.embedded(run("db start", action), as_json=json)


@app.command()
def stop(json: options.JsonOption = False) -> None:
    """Stop the embedded server."""
    from toolbox_cli.cli import render

    async def action(services: Services) -> ServerStatus:
        server = services.embedded_server
        server.stop()
        return server.status()

    render.embedded(run("db stop", action), as_json=json)


@app.command()
def status(json: options.JsonOption = False) -> None:
    """Say whether the embedded server runs, and where its data is."""
    from toolbox_cli.cli import render

    async def action(services: Services) -> ServerStatus:
        return services.embedded_server.status()

    render.embedded(run("db status", action), as_json=json)


@app.command()
def url(json: options.JsonOption = False) -> None:
    """Print a DATABASE_URL for the embedded server; it must be kept running (`toolbox db start`)."""
    from toolbox_cli.cli import render

    async def action(services: Services) -> str:
        return services.embedded_server.url()

    render.url(run("db url", action), as_json=json)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def shell(
    arguments: Annotated[list[str] | None, typer.Argument(metavar="[PSQL OPTIONS]", help="Handed to psql.")] = None,
) -> None:
    """Open psql on the registry's embedded database; options go to psql, e.g. -c 'SELECT 1' or -f FILE."""

    async def action(services: Services) -> int:
        with services.embedded_server.use() as server:
            return server.psql(arguments or [])

    raise typer.Exit(run("db shell", action))
