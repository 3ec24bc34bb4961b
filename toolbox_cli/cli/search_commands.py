"""search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from toolbox_cli.cli import options
from toolbox_cli.cli.runtime import Services, run

if TYPE_CHECKING:
    from toolbox_cli.domain.models import SearchResult


def register(app: typer.Typer) -> None:
    app.command()(search)


def search(
    query: Annotated[str, typer.Argument(help="What is looked for, in words.")],
    limit: options.LimitOption = 5,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", min=-1, max=1, help="Only results at least this similar (cosine)."),
    ] = None,
    category: options.CategoryOption = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="Only tools with this tag; may be repeated.")] = None,
    mode: Annotated[Literal["vector"], typer.Option("--mode", help="How to search.")] = "vector",
    include_inactive: options.InactiveOption = False,
    json: options.JsonOption = False,
) -> None:
    """Find tools by meaning, with the model that made the registry's embeddings."""
    from toolbox_cli.cli import render
    from toolbox_cli.core.search import search as find
    from toolbox_cli.domain.searching import SearchFilter

    where = SearchFilter(category=category, tags=tuple(tag or ()), include_inactive=include_inactive)

    async def action(services: Services) -> SearchResult:
        store = await services.search_store()
        return await find(store, services.generation, services.embedder, query, where, limit=limit, threshold=threshold)

    render.search(run("search", action), as_json=json)
