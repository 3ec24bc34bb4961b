"""compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolbox_cli.cli import options
from toolbox_cli.cli.runtime import Services, run

if TYPE_CHECKING:
    from toolbox_cli.domain.comparison import Comparison


def register(app: typer.Typer) -> None:
    app.command()(compare)


def compare(
    queries: Annotated[
        str | None,
        typer.Option("--queries", metavar="FILE", help="Questions: a line each, or JSONL with the relevant tools."),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100, help="Results that count.")] = 10,
    threshold: Annotated[
        list[float] | None,
        typer.Option("--threshold", help="Translate this threshold of the old model; may be repeated."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Also write a page with charts, complete in itself.")
    ] = None,
    json: options.JsonOption = False,
) -> None:
    """Ask the embeddings that are being built and the present ones the same questions, before a cutover.

    Without FILE the questions are made from the tools' own descriptions: they show how far the two agree. Whether the
    new model is better, questions of your users with the names of the right tools can say.
    """
    from toolbox_cli.cli import files, render
    from toolbox_cli.core.compare import CompareOptions
    from toolbox_cli.core.compare import compare as compare_generations

    render.check_report(html)
    questions = files.questions(queries) if queries is not None else None
    wanted = CompareOptions(limit=limit, thresholds=tuple(threshold or ()))

    async def action(services: Services) -> Comparison:
        return await compare_generations(
            await services.search_store(),
            await services.inspector(),
            await services.generations(),
            services.embedder,
            services.settings,
            questions,
            wanted,
            render.progress(),
        )

    render.comparison(run("compare", action), html=html, as_json=json)
