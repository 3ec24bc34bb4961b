"""Tools as an operator sees them: search, list, show, import, export."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.text import Text

from toolbox_cli.cli import report
from toolbox_cli.cli.render.layout import Column, columns, labelled, paper
from toolbox_cli.cli.render.output import counted, document
from toolbox_cli.cli.report import plain

if TYPE_CHECKING:
    from toolbox_cli.domain.models import Tool, ToolSummary
    from toolbox_cli.domain.transfer import ExportSummary, ImportSummary

_FAILURES_SHOWN = 20


def tools(
    total: int, found: Sequence[ToolSummary], *, offset: int, category: str | None, inactive: bool, as_json: bool
) -> None:
    if as_json:
        document({"total": total, "tools": [tool.model_dump(mode="json") for tool in found]})
        return
    console = paper()
    where = f" in category {category!r}" if category is not None else ""
    if total == 0:
        kind = "tool" if inactive else "active tool"
        more = "" if where else " `toolbox import FILE` brings some in, `toolbox import --sample` a catalogue to try."
        console.print(f"There is no {kind}{where}.{more}", markup=False)
        return
    if not found:
        console.print(f"There are {counted(total, 'tool')}{where}, none after {offset}.", markup=False)
        return
    heads = (Column("id", right=True, fixed=True), Column("name", style="bold"), Column("category"))
    rows = [
        (str(tool.id), f"{tool.name}{'' if tool.is_active else ' (inactive)'}", tool.category, tool.description)
        for tool in found
    ]
    columns(console, (*heads, Column("description")), rows)
    how_many = counted(total, "tool" if inactive else "active tool")
    # Not on stdout in a pipe: a script that counts lines must not count this one.
    summary = f"{offset + 1}–{offset + len(found)} of {how_many}{where}" if len(found) < total else f"{how_many}{where}"
    if sys.stdout.isatty():
        console.print(summary, style="dim", markup=False)
    elif len(found) < total:
        report.note(summary)


_BLOCKS = ("input_schema", "output_schema", "implementation_code", "metadata")


def tool(found: Tool, *, as_json: bool) -> None:
    """What is short in lines, then the schemas as indented blocks."""
    if as_json:
        document(found)
        return
    console = paper()
    state = "" if found.is_active else ", inactive"
    console.print(Text.assemble((plain(found.name), "bold"), (f"  (id {found.id}{state})", "dim")))
    if found.description.strip():
        labelled(console, "", plain(found.description), indent=2)
    tags = found.tags
    lines = {
        "category": found.category,
        "tags": ", ".join(map(str, tags)) if isinstance(tags, list) else json.dumps(tags, ensure_ascii=False),
        "version": found.version,
        "implementation": found.implementation_type,
        "created": f"{found.created_at:%Y-%m-%d %H:%M:%S}",
        "updated": f"{found.updated_at:%Y-%m-%d %H:%M:%S}",
    }
    for name, value in lines.items():
        if value:
            labelled(console, Text(name, style="dim"), plain(value), indent=16)
    for name in _BLOCKS:
        value = getattr(found, name)
        if value is None or value in ({}, ""):
            continue
        console.print(Text(name.replace("_", " "), style="dim"))
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)
        for row in text.rstrip().split("\n"):
            console.print(Text(f"  {plain(row.rstrip(), lines=True)}"), soft_wrap=True)


def switched(found: Tool, *, changed: bool, as_json: bool) -> None:
    state = "active" if found.is_active else "inactive"
    if as_json:
        document({"id": found.id, "name": found.name, "is_active": found.is_active, "changed": changed})
        return
    console = paper()
    console.print(f"{plain(found.name)} is {'now' if changed else 'already'} {state}", markup=False)


def imported(summary: ImportSummary, *, dry_run: bool, as_json: bool) -> int:
    """0 when every entry was right, else 1."""
    if as_json:
        document(summary)
        return 1 if summary.failed else 0
    console = paper()
    would = "Would be: " if dry_run else ""
    console.print(
        f"{would}{summary.created} created, {summary.updated} updated, {summary.unchanged} unchanged,"
        f" {summary.skipped} skipped, {summary.failed} failed"
    )
    for failure in summary.failures[:_FAILURES_SHOWN]:
        where = f"line {failure.line}" if failure.line is not None else "file"
        name = f" {plain(failure.name)}" if failure.name else ""
        labelled(console, Text("failed", style="red"), f"{where}{name}: {plain(failure.error)}", indent=8)
    if summary.failed > _FAILURES_SHOWN:
        console.print(f"… and {summary.failed - _FAILURES_SHOWN} more; --json lists them")
    if not dry_run and summary.created + summary.updated:
        console.print("Next: [bold]toolbox reindex[/bold] embeds what is new.")
    return 1 if summary.failed else 0


def exported(summary: ExportSummary, file: str | None, *, as_json: bool) -> int:
    """The tools themselves may be on stdout, so the summary goes to stderr unless a file was named."""
    if file not in (None, "-"):
        if as_json:
            document(summary)
        else:
            paper().print(f"{counted(summary.exported, 'tool')} written to {escape(str(file))}")
    for failure in summary.failures[:_FAILURES_SHOWN]:
        report.note(f"not exported: {failure.name} ({failure.id}): {failure.error}")
    return 1 if summary.failed else 0
