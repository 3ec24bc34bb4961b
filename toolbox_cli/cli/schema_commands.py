"""migrate, rollback, prune, status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from toolbox_cli.cli import options
from toolbox_cli.cli.runtime import Services, run

if TYPE_CHECKING:
    from toolbox_cli.domain.changes import Outline

IndexChoice = Literal["hnsw", "ivfflat", "none"]


def register(app: typer.Typer) -> None:
    app.command()(migrate)
    app.command()(cutover)
    app.command()(rollback)
    app.command()(prune)
    app.command()(status)


def migrate(
    dimension: Annotated[
        int | None, typer.Option("--dimension", "-d", help="Dimension of the embeddings, 1 to 16000.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Embedding model, as the service spells it.")
    ] = None,
    endpoint_url: Annotated[
        str | None, typer.Option("--endpoint-url", help="URL of the embedding service, or 'builtin'.")
    ] = None,
    api_key_env: Annotated[
        str | None,
        typer.Option("--api-key-env", metavar="NAME", help="Name of the variable that holds the service's key."),
    ] = None,
    online: Annotated[
        bool, typer.Option("--online", help="Build the new embeddings beside the present ones; search stays up.")
    ] = False,
    index: Annotated[IndexChoice | None, typer.Option("--index", help="Vector index; hnsw unless given.")] = None,
    dry_run: options.DryRunOption = False,
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL that would be executed; write nothing.")] = False,
    backup: options.BackupOption = None,
    yes: options.YesOption = False,
    force: options.ForceOption = False,
    json: options.JsonOption = False,
) -> None:
    """Create, adopt or change the registry: its schema, and the dimension or model of its embeddings.

    Run on an empty database, on one that the ToolBox server's Alembic made, or again at any time. A change of
    dimension or model keeps the former vectors for `toolbox rollback`; one back to the former model takes them up
    again. With --online, search goes on with the present embeddings until `toolbox cutover`.
    """
    from toolbox_cli.cli import consent, render
    from toolbox_cli.core.generation import change
    from toolbox_cli.core.status import Ahead, ahead_of
    from toolbox_cli.core.target import TargetOptions

    wanted = TargetOptions(
        dimension=dimension, model=model, endpoint_url=endpoint_url, index_method=index, api_key_env=api_key_env
    )

    async def action(services: Services) -> tuple[Outline, Ahead | None]:
        registry, target = await services.registry(), await services.target(wanted)
        if online and not sql:
            await services.try_out(target)
        outline = await change(
            registry,
            lambda: registry.plan_migrate(target, online=online),
            consent=consent.given(yes=yes, force=force, as_json=json),
            dry_run=dry_run or sql,
            progress=render.progress(),
            # They may name the new model already, whose turn has not come yet.
            settings=None if online else services.settings,
            backup=await services.backup(backup),
        )
        read = online and not sql and not json
        return outline, await ahead_of(await services.inspector(), services.settings, target) if read else None

    outline, ahead = run("migrate", action)
    if sql:
        render.sql(outline, as_json=json)
    else:
        render.outline(outline, done=not dry_run, as_json=json, ahead=ahead)


def cutover(
    min_recall: Annotated[
        float,
        typer.Option(
            "--min-recall", min=0, max=1, help="Refuse an index that finds less of what an exact search finds."
        ),
    ] = 0.95,
    dry_run: options.DryRunOption = False,
    yes: options.YesOption = False,
    force: Annotated[
        bool, typer.Option("--force", help="Go on although a check fails or something names a column.")
    ] = False,
    json: options.JsonOption = False,
) -> None:
    """Let search read the embeddings that were built with `migrate --online`: they are checked, then swapped in.

    Refuses, with the reasons, unless every active tool is embedded, the index is valid and finds what it should. The
    swap takes milliseconds; the former embeddings are kept for `toolbox rollback`.
    """
    from toolbox_cli.cli import consent, render
    from toolbox_cli.core.cutover import CutoverOptions
    from toolbox_cli.core.cutover import cutover as cut_over
    from toolbox_cli.domain.changes import CutoverReport

    agreed = consent.given(yes=yes, force=force, as_json=json)

    async def action(services: Services) -> CutoverReport:
        work = await services.workshop(render.progress())
        return await cut_over(work, CutoverOptions(min_recall=min_recall, dry_run=dry_run), agreed)

    report = run("cutover", action)
    raise typer.Exit(render.cutover(report, dry_run=dry_run, as_json=json))


def rollback(
    to: Annotated[
        str | None, typer.Option("--to", metavar="001|002|zero", help="Undo the migrations after this one.")
    ] = None,
    dry_run: options.DryRunOption = False,
    backup: options.BackupOption = None,
    yes: options.YesOption = False,
    force: options.ForceOption = False,
    json: options.JsonOption = False,
) -> None:
    """Go back to the previous embeddings, with every vector as it was.

    With --to, undo migrations instead: 001 ends with vector(1024) as the ToolBox guide has it, zero removes what
    toolbox created.
    """
    from toolbox_cli.cli import consent, render
    from toolbox_cli.core.generation import change

    async def action(services: Services) -> Outline:
        registry = await services.registry()
        return await change(
            registry,
            lambda: registry.plan_rollback(to),
            consent=consent.given(yes=yes, force=force, as_json=json),
            dry_run=dry_run,
            progress=render.progress(),
            settings=services.settings,
            backup=await services.backup(backup),
        )

    render.outline(run("rollback", action), done=not dry_run, as_json=json)


def prune(
    dry_run: options.DryRunOption = False,
    backup: options.BackupOption = None,
    yes: options.YesOption = False,
    force: options.ForceOption = False,
    json: options.JsonOption = False,
) -> None:
    """Drop the vectors that were kept for a roll back. There is no way back after this."""
    from toolbox_cli.cli import consent, render
    from toolbox_cli.core.generation import change

    async def action(services: Services) -> Outline:
        registry = await services.registry()
        return await change(
            registry,
            registry.plan_prune,
            consent=consent.given(yes=yes, force=force, as_json=json),
            dry_run=dry_run,
            progress=render.progress(),
            settings=services.settings,
            backup=await services.backup(backup),
        )

    nothing = "Nothing to drop: no vectors are kept for a roll back."
    render.outline(run("prune", action), done=not dry_run, as_json=json, nothing=nothing)


def status(json: options.JsonOption = False) -> None:
    """Show where the registry stands: database, migrations, generations and their coverage, next command."""
    from toolbox_cli.cli import render
    from toolbox_cli.core.status import Status
    from toolbox_cli.core.status import status as read_status

    async def action(services: Services) -> Status:
        return await read_status(await services.inspector(), services.settings)

    render.status(run("status", action), as_json=json)
