"""search, similar, eval."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from toolbox_cli.cli import options
from toolbox_cli.cli.runtime import Services, run

if TYPE_CHECKING:
    from toolbox_cli.domain.evaluation import Evaluation
    from toolbox_cli.domain.models import SearchResult

ModeChoice = Literal["vector", "hybrid", "text"]
ThresholdOption = Annotated[
    float | None,
    typer.Option("--threshold", min=-1, max=1, help="Only results at least this similar (cosine)."),
]


class EvaluatedMode(StrEnum):
    """The modes of search. An enum of its own: Typer takes no list of literals."""

    VECTOR = "vector"
    TEXT = "text"
    HYBRID = "hybrid"


ExplainOption = Annotated[bool, typer.Option("--explain", help="Also say how it was found, and where the time went.")]


def register(app: typer.Typer) -> None:
    app.command()(search)
    app.command()(similar)
    app.command(name="eval")(evaluate)


def search(
    query: Annotated[str, typer.Argument(help="What is looked for, in words.")],
    limit: options.LimitOption = 5,
    threshold: ThresholdOption = None,
    category: options.CategoryOption = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="Only tools with this tag; may be repeated.")] = None,
    mode: Annotated[
        ModeChoice | None,
        typer.Option("--mode", help="By meaning, by words, or by both (hybrid, where there is a text index)."),
    ] = None,
    include_inactive: options.InactiveOption = False,
    explain: ExplainOption = False,
    json: options.JsonOption = False,
) -> None:
    """Find tools by meaning and by words, with the model that made the registry's embeddings.

    With --mode text, by words alone: that needs neither embeddings nor an embedding service.
    """
    from toolbox_cli.cli import render
    from toolbox_cli.core.search import SearchRequest
    from toolbox_cli.core.search import search as find
    from toolbox_cli.domain.searching import SearchFilter

    where = SearchFilter(category=category, tags=tuple(tag or ()), include_inactive=include_inactive)
    request = SearchRequest(query, where, limit, threshold, mode)

    async def action(services: Services) -> SearchResult:
        return await find(await services.search_store(), services.generation, services.embedder, request)

    render.search(run("search", action), explain=explain, as_json=json)


def similar(
    tool: options.ToolArgument,
    limit: options.LimitOption = 5,
    threshold: ThresholdOption = None,
    explain: ExplainOption = False,
    json: options.JsonOption = False,
) -> None:
    """Find the tools that are most like a tool, by its stored embedding; no service is needed."""
    from toolbox_cli.cli import render
    from toolbox_cli.core.search import similar as find

    async def action(services: Services) -> SearchResult:
        found = await (await services.tools()).find(tool)
        store = await services.search_store()
        return await find(store, services.generation, found, limit=limit, threshold=threshold)

    render.search(run("similar", action), explain=explain, as_json=json)


def evaluate(
    file: Annotated[
        str | None,
        typer.Argument(metavar="FILE", help="Questions with the relevant tools, JSONL; - for standard input."),
    ] = None,
    sample: Annotated[
        bool, typer.Option("--sample", help="The questions that come with the sample catalogue.")
    ] = False,
    mode: Annotated[
        list[EvaluatedMode] | None, typer.Option("--mode", help="Only this mode; may be repeated. All unless given.")
    ] = None,
    json: options.JsonOption = False,
) -> None:
    """Ask questions whose answers are known, and say how often each mode of search finds them.

    A line of FILE is {"query": "…", "relevant": ["tool_name", …]}. Prints recall@1, @5 and @10 and MRR@10 with their
    95 % intervals, and the questions that are answered worst.
    """
    from toolbox_cli.cli import files, render
    from toolbox_cli.core.evaluate import evaluate as ask_all

    questions = files.labelled_questions(file, sample=sample)
    modes = tuple(chosen.value for chosen in mode or ())

    async def action(services: Services) -> Evaluation:
        store, generation = await services.search_store(), await services.generation()
        return await ask_all(store, generation, services.embedder, questions, modes, render.progress())

    render.evaluation(run("eval", action), as_json=json)
