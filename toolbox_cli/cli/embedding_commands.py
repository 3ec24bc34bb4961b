"""reindex, verify, embed, models."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from toolbox_cli.cli import options
from toolbox_cli.cli.runtime import Services, run

if TYPE_CHECKING:
    from toolbox_cli.core.checks.verification import Verification
    from toolbox_cli.core.filling import ReindexOptions
    from toolbox_cli.core.generation import Consent
    from toolbox_cli.core.reindex import ReindexOutcome, ReindexPlan
    from toolbox_cli.core.try_out import Trial


class GenerationChoice(StrEnum):
    """The live generations by their roles. An enum of its own: Typer takes no list of literals."""

    CURRENT = "current"
    BUILDING = "building"
    PREVIOUS = "previous"


def register(app: typer.Typer) -> None:
    app.command()(reindex)
    app.command()(verify)
    app.command()(embed)
    app.command()(models)


def reindex(
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, max=256, help="Requests under way at once.")] = 10,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, max=2048, help="Texts a request.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also tools whose embedding is up to date.")] = False,
    tool: Annotated[
        list[str] | None, typer.Option("--tool", metavar="ID|NAME", help="Only this tool; may be repeated.")
    ] = None,
    category: options.CategoryOption = None,
    include_inactive: options.InactiveOption = False,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Embed at most so many tools.")] = None,
    max_rate: Annotated[
        float | None, typer.Option("--max-rate", min=0.001, help="At most so many tools a second.")
    ] = None,
    long_texts: Annotated[
        Literal["truncate", "refuse"],
        typer.Option("--long-texts", help="Cut texts that are longer than the model reads, or list them as failed."),
    ] = "truncate",
    generation: Annotated[
        list[GenerationChoice] | None,
        typer.Option(
            "--generation",
            help="Only this generation; may be repeated. Unless given: the current one, and one that is being built.",
        ),
    ] = None,
    keep_index: Annotated[
        bool, typer.Option("--keep-index", help="Keep the vector index meanwhile: slower, but searches stay fast.")
    ] = False,
    rebuild_index: Annotated[
        bool, typer.Option("--rebuild-index", help="Build the vector index anew; the old one serves until then.")
    ] = False,
    cutover: Annotated[
        bool, typer.Option("--cutover", help="Then let search read the generation that was built, if it is ready.")
    ] = False,
    yes: options.YesOption = False,
    dry_run: options.DryRunOption = False,
    json: options.JsonOption = False,
) -> None:
    """Embed every active tool whose embedding is missing or out of date.

    Safe to interrupt and to run again, also on several hosts at once: what is done is not done twice. Tools that the
    service refuses are listed with its reason, and end the command with exit code 1. With --generation previous, what a
    rollback would bring back is kept fresh too.
    """
    from toolbox_cli.cli import consent, render
    from toolbox_cli.core.filling import ReindexOptions

    wanted = ReindexOptions(
        concurrency=concurrency,
        batch_size=batch_size,
        limit=limit,
        everything=everything,
        include_inactive=include_inactive,
        category=category,
        tools=tuple(tool or ()),
        max_rate=max_rate,
        long_texts=long_texts,
        keep_index=keep_index,
        rebuild_index=rebuild_index,
    )
    roles = tuple(generation or ())
    if dry_run:
        render.reindex_plan(run("reindex", lambda services: _plan(services, wanted, roles)), as_json=json)
    else:
        agreed = consent.given(yes=yes, force=False, as_json=json) if cutover else None
        outcome = run("reindex", lambda services: _reindex(services, wanted, roles, agreed))
        raise typer.Exit(render.reindex(outcome, as_json=json))


async def _plan(services: Services, wanted: ReindexOptions, roles: Sequence[str]) -> ReindexPlan:
    from toolbox_cli.core.reindex import plan_reindex
    from toolbox_cli.domain.models import Role

    store = await services.embedding_store()
    return await plan_reindex(store, services.settings, wanted, [Role(role) for role in roles])


async def _reindex(
    services: Services, wanted: ReindexOptions, roles: Sequence[str], agreed: Consent | None
) -> ReindexOutcome:
    from toolbox_cli.cli import render
    from toolbox_cli.core.cutover import reindex_and_cut_over
    from toolbox_cli.core.reindex import reindex as reindex_tools
    from toolbox_cli.domain.models import Role

    work = await services.workshop(render.progress())
    chosen = [Role(role) for role in roles]
    if agreed is not None:
        return await reindex_and_cut_over(work, wanted, chosen, agreed)
    return await reindex_tools(work.store, work.build_embedder, work.settings, wanted, chosen, work.progress, work.stop)


def verify(
    sample: Annotated[int, typer.Option("--sample", min=1, max=100_000, help="Vectors that are made again.")] = 64,
    profile: Annotated[
        bool,
        typer.Option("--profile", help="Also find out what the service does: limits, order, speed. Kept for reindex."),
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Leave out what needs the embedding service.")] = False,
    json: options.JsonOption = False,
) -> None:
    """Check the registry, its vectors and the service, and name the command that mends what is wrong.

    Reads every vector, makes a sample of them again and compares: a green check stands for what was looked at, never
    for what is recorded. Exit code 1 if a check failed.
    """
    from toolbox_cli.cli import render
    from toolbox_cli.core.verify import VerifyOptions
    from toolbox_cli.core.verify import verify as run_checks

    if profile and offline:
        raise typer.BadParameter("--profile needs the service that --offline leaves out")
    chosen = VerifyOptions(offline=offline, sample=sample, profile=profile)

    async def action(services: Services) -> Verification:
        return await run_checks(
            await services.inspector(),
            await services.search_store(),
            services.settings,
            services,
            chosen,
            render.progress(),
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
        return await try_out(services.configured_embedder(), services.configured_service().endpoint_url, text)

    render.trial(run("embed", action), as_json=json)


def models(json: options.JsonOption = False) -> None:
    """List the known embedding models: dimensions, prefixes, input limits."""
    from toolbox_cli.cli import render
    from toolbox_cli.domain.catalog import KNOWN_MODELS

    render.models(KNOWN_MODELS, as_json=json)
