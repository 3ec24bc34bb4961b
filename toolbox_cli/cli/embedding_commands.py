"""reindex, verify, embed, models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from toolbox_cli.cli import options
from toolbox_cli.cli.runtime import Services, run

if TYPE_CHECKING:
    from toolbox_cli.core.reindex import ReindexOutcome
    from toolbox_cli.core.try_out import Trial
    from toolbox_cli.core.verify import Verification


def register(app: typer.Typer) -> None:
    app.command()(reindex)
    app.command()(verify)
    app.command()(embed)
    app.command()(models)


def reindex(
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, max=256, help="Requests under way at once.")] = 10,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, max=2048, help="Texts a request.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also tools whose embedding is up to date.")] = False,
    tool: Annotated[list[str] | None, typer.Option("--tool", metavar="ID|NAME", help="Only this tool.")] = None,
    category: options.CategoryOption = None,
    include_inactive: options.InactiveOption = False,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Embed at most so many tools.")] = None,
    json: options.JsonOption = False,
) -> None:
    """Embed every active tool whose embedding is missing or out of date.

    Safe to interrupt and to run again: what is done is not done twice. Tools that the service refuses are listed
    with its reason, and end the command with exit code 1.
    """
    from toolbox_cli.cli import render
    from toolbox_cli.core.reindex import ReindexOptions, reindex_tools

    async def action(services: Services) -> ReindexOutcome:
        generation = await services.generation()
        return await reindex_tools(
            await services.embedding_store(),
            services.embedder(generation),
            generation,
            ReindexOptions(
                concurrency=concurrency,
                batch_size=batch_size,
                limit=limit,
                everything=everything,
                include_inactive=include_inactive,
                category=category,
                tools=tuple(tool or ()),
            ),
            render.progress(),
        )

    raise typer.Exit(render.reindex(run("reindex", action), as_json=json))


def verify(
    offline: Annotated[bool, typer.Option("--offline", help="Leave out what needs the embedding service.")] = False,
    json: options.JsonOption = False,
) -> None:
    """Check the registry, its vectors and the service, and name the command that mends what is wrong."""
    from toolbox_cli.cli import render
    from toolbox_cli.core.verify import verify as run_checks

    async def action(services: Services) -> Verification:
        return await run_checks(
            await services.inspector(),
            await services.search_store(),
            services.settings,
            services.embedder,
            offline=offline,
        )

    raise typer.Exit(render.verification(run("verify", action), as_json=json))


def embed(
    text: Annotated[str, typer.Argument(help="The text to embed, as a question.")],
    json: options.JsonOption = False,
) -> None:
    """Send one text through the configured service: dimension, norm and time."""
    from toolbox_cli.cli import render
    from toolbox_cli.core.try_out import try_out

    async def action(services: Services) -> Trial:
        return await try_out(services.configured_embedder(), text)

    render.trial(run("embed", action), as_json=json)


def models(json: options.JsonOption = False) -> None:
    """List the known embedding models: dimensions, prefixes, input limits."""
    from toolbox_cli.cli import render
    from toolbox_cli.domain.catalog import KNOWN_MODELS

    render.models(KNOWN_MODELS, as_json=json)
