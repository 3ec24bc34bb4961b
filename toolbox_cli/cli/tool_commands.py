"""list, show, import, export, activate, deactivate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from toolbox_cli.cli import options
from toolbox_cli.cli.runtime import Services, run

if TYPE_CHECKING:
    from toolbox_cli.domain.models import Tool, ToolSummary
    from toolbox_cli.domain.transfer import ExportSummary, ImportSummary

ImportFormat = Literal["auto", "mcp", "openai", "jsonl"]
ExportFormat = Literal["jsonl", "mcp", "openai"]
OnConflict = Literal["update", "skip", "error"]


def register(app: typer.Typer) -> None:
    app.command("list")(list_tools)
    app.command()(show)
    app.command("import")(import_tools)
    app.command("export")(export_tools)
    app.command()(activate)
    app.command()(deactivate)


def list_tools(
    category: options.CategoryOption = None,
    include_inactive: options.InactiveOption = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="Tools a page.")] = 1000,
    offset: Annotated[int, typer.Option("--offset", min=0, help="Tools to leave out at the start.")] = 0,
    json: options.JsonOption = False,
) -> None:
    """List the registry's tools by name."""
    from toolbox_cli.cli import render

    async def action(services: Services) -> tuple[int, list[ToolSummary]]:
        store = await services.tools()
        return await store.list(category=category, include_inactive=include_inactive, limit=limit, offset=offset)

    total, tools = run("list", action)
    render.tools(total, tools, offset=offset, category=category, inactive=include_inactive, as_json=json)


def show(tool: options.ToolArgument, json: options.JsonOption = False) -> None:
    """Show one tool with its schemas."""
    from toolbox_cli.cli import render

    async def action(services: Services) -> Tool:
        return await (await services.tools()).find(tool)

    render.tool(run("show", action), as_json=json)


def import_tools(
    file: options.FileArgument = None,
    sample: Annotated[bool, typer.Option("--sample", help="The catalogue that comes with toolbox.")] = False,
    format: Annotated[ImportFormat, typer.Option("--format", help="Shape of the file.")] = "auto",  # noqa: A002 - the option's name
    category: Annotated[
        str | None, typer.Option("--category", "-c", help="Category of tools that have none of their own.")
    ] = None,
    on_conflict: Annotated[
        OnConflict, typer.Option("--on-conflict", help="What to do with a tool that is there already.")
    ] = "update",
    dry_run: options.DryRunOption = False,
    json: options.JsonOption = False,
) -> None:
    """Read tools from an MCP tools/list result, OpenAI function definitions or JSONL.

    Entries that are not right are reported by line and end the command with exit code 1; the others are imported.
    """
    from toolbox_cli.cli import files, render
    from toolbox_cli.core.transfer import import_tools as read_tools

    async def action(services: Services) -> ImportSummary:
        with files.source(file, sample=sample) as source:
            return await read_tools(
                source,
                await services.transfer(),
                file_format=format,
                category=category,
                on_conflict=on_conflict,
                dry_run=dry_run,
                progress=render.progress(),
            )

    raise typer.Exit(render.imported(run("import", action), dry_run=dry_run, as_json=json))


def export_tools(
    file: options.FileArgument = None,
    format: Annotated[ExportFormat, typer.Option("--format", help="Shape of the file.")] = "jsonl",  # noqa: A002 - the option's name
    with_embeddings: Annotated[
        bool, typer.Option("--with-embeddings", help="With the current embeddings (JSONL only).")
    ] = False,
    json: options.JsonOption = False,
) -> None:
    """Write all tools as JSONL, as an MCP tools/list result or as OpenAI function definitions."""
    from toolbox_cli.cli import files, render
    from toolbox_cli.core.transfer import export_tools as write_tools
    from toolbox_cli.domain.errors import InvalidUsageError

    if json and file in (None, "-") and format == "jsonl":
        raise InvalidUsageError(
            "--json prints one document, and the tools would be many on the same output",
            hint="Name a FILE for the tools, or use --format mcp, which is one document.",
        )

    async def action(services: Services) -> ExportSummary:
        store = await services.transfer()
        with files.sink(file) as sink:
            return await write_tools(
                sink, store, file_format=format, with_embeddings=with_embeddings, progress=render.progress()
            )

    raise typer.Exit(render.exported(run("export", action), file, as_json=json))


def activate(tool: options.ToolArgument, json: options.JsonOption = False) -> None:
    """Switch a tool on: it is embedded and found again."""
    _switch(tool, active=True, as_json=json)


def deactivate(tool: options.ToolArgument, json: options.JsonOption = False) -> None:
    """Switch a tool off: it is kept, but neither embedded nor found."""
    _switch(tool, active=False, as_json=json)


def _switch(tool: str, *, active: bool, as_json: bool) -> None:
    from toolbox_cli.cli import render

    async def action(services: Services) -> tuple[Tool, bool]:
        return await (await services.tools()).set_active(tool, active=active)

    found, changed = run("activate" if active else "deactivate", action)
    render.switched(found, changed=changed, as_json=as_json)
