"""What the operator sees. The only module that imports rich: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from toolbox_cli.cli import report
from toolbox_cli.cli.progress import BarProgress, NotedProgress

if TYPE_CHECKING:
    from toolbox_cli.core.reindex import ReindexOutcome
    from toolbox_cli.core.status import GenerationStatus, Status
    from toolbox_cli.core.try_out import Trial
    from toolbox_cli.core.verify import Verification
    from toolbox_cli.db.embedded import ServerStatus
    from toolbox_cli.domain.catalog import KnownModel
    from toolbox_cli.domain.changes import Outline
    from toolbox_cli.domain.models import SearchResult, Tool, ToolSummary
    from toolbox_cli.domain.ports import Progress
    from toolbox_cli.domain.transfer import ExportSummary, ImportSummary

_STATUS_STYLES = {"pass": "green", "warn": "yellow", "fail": "bold red", "skip": "dim"}
_FAILURES_SHOWN = 20


def _out() -> Console:
    # A pipe has no width: lines are left whole there, so that grep and awk see all of them.
    terminal = sys.stdout.isatty()
    return Console(highlight=False, soft_wrap=not terminal, width=None if terminal else 10_000)


def document(value: BaseModel | dict[str, Any]) -> None:
    """One JSON document on stdout. Text stays readable: nothing but control characters is escaped."""
    data = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    # Lone surrogates cannot leave as UTF-8; everything else can.
    text = json.dumps(data, ensure_ascii=False, indent=2).encode("utf-8", "backslashreplace").decode("utf-8")
    sys.stdout.write(text + "\n")


def progress() -> Progress:
    """A bar where somebody watches, silence elsewhere."""
    console = Console(stderr=True)
    return BarProgress(console) if console.is_terminal else NotedProgress()


def outline(found: Outline, *, done: bool, as_json: bool) -> None:
    """A change of schema or generations, carried out or only planned."""
    if as_json:
        document(found.model_dump(mode="json") | {"done": done and not found.empty})
        return
    console = _out()
    if found.empty:
        console.print("Nothing to do: the registry is as asked for.")
    for step in found.steps:
        if not step.statements and not step.title.startswith(("migration", "undo")):
            continue
        console.print(f"{'done' if done else 'would do'}: {escape(step.title)}")
        purposes = list(dict.fromkeys(statement.purpose for statement in step.statements))
        for purpose in purposes:
            console.print(f"  - {escape(purpose)}")
    for phrase in found.retires:
        console.print(f"set aside: {escape(phrase)}")
    for phrase in found.losses:
        console.print(f"[red]lost for good[/red]: {escape(phrase)}")
    for phrase in found.dependents:
        console.print(f"[yellow]depends on a column that moves[/yellow]: {escape(phrase)}")
    for phrase in found.notes:
        console.print(escape(phrase))
    if done and not found.empty:
        console.print("Next: [bold]toolbox status[/bold] shows what is left to do.")


def sql(found: Outline, *, as_json: bool) -> None:
    """The statements of a plan as a script."""
    if as_json:
        document(found)
        return
    for step in found.steps:
        sys.stdout.write(f"-- {step.title}\n")
        for statement in step.statements:
            sys.stdout.write(f"-- {statement.purpose}\n{statement.sql}\n")
        sys.stdout.write("\n")


def status(found: Status, *, as_json: bool) -> None:
    if as_json:
        document(found)
        return
    console = _out()
    database = found.database
    kind = "embedded" if database.embedded else "server"
    console.print(
        f"database     PostgreSQL {database.server_version} ({kind}), pgvector {database.pgvector_version or 'missing'}"
    )
    pending = f", pending: {', '.join(found.migrations.pending)}" if found.migrations.pending else ""
    console.print(f"migrations   {len(found.migrations.applied)} applied{pending}")
    if found.problem and "no table" not in found.problem:
        console.print(f"[red]problem[/red]      {escape(found.problem)}")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("generation", "model", "dimension", "index", "coverage", "stale", "missing", "failed"):
        table.add_column(column, justify="right" if column in ("dimension", "stale", "missing", "failed") else "left")
    for role in ("current", "building", "previous"):
        generation = getattr(found.generations, role)
        if generation is not None:
            _generation_row(table, role, generation)
    if table.row_count:
        console.print(table)
    if found.next_command:
        console.print(f"next         [bold]{found.next_command}[/bold]")
    else:
        console.print("next         nothing: every active tool has a fresh embedding")


def _generation_row(table: Table, role: str, generation: GenerationStatus) -> None:
    census = generation.census
    index = generation.index
    if generation.rolled_back:
        role += " (set aside)"
    table.add_row(
        role,
        escape(generation.model or "unknown"),
        str(generation.dimension),
        "none" if index is None else f"{index.method}{'' if index.valid else ' INVALID'}",
        f"{_bar(census.fresh, census.active)} {census.fresh}/{census.active} fresh",
        str(census.stale),
        str(census.missing),
        str(census.failed),
    )


def _bar(part: float, whole: float, width: int = 12) -> str:
    filled = 0 if whole <= 0 else max(0, min(width, int(width * part / whole)))
    return "█" * filled + "░" * (width - filled)


def reindex(outcome: ReindexOutcome, *, as_json: bool) -> int:
    """The summary of a run; raises the error that ended it early, after what was done has been shown."""
    summary = outcome.summary
    if as_json:
        document(summary)
    else:
        _reindex_text(outcome)
    if outcome.stopped_by is not None:
        raise outcome.stopped_by
    return 1 if summary.failed else 0


def _reindex_text(outcome: ReindexOutcome) -> None:
    summary = outcome.summary
    console = _out()
    if summary.selected == 0:
        console.print("No tool to embed: none was selected.")
    elif summary.embedded == 0 and summary.failed == 0 and outcome.stopped_by is None:
        console.print(f"Nothing to do: all {summary.unchanged} tools have a fresh embedding.")
    else:
        console.print(
            f"{summary.embedded} embedded, {summary.unchanged} already fresh, {summary.failed} failed"
            f" in {summary.seconds:.1f} s ({summary.tools_per_second:.0f} tools/s)"
        )
    for failure in summary.failures[:_FAILURES_SHOWN]:
        console.print(f"[red]failed[/red]  {failure.id}  {escape(failure.name)}: {escape(failure.error)}")
    if summary.failed > _FAILURES_SHOWN:
        console.print(f"… and {summary.failed - _FAILURES_SHOWN} more; --json lists them all")


def verification(found: Verification, *, as_json: bool) -> int:
    """0 when no check failed, else 1."""
    if as_json:
        document({"ok": found.ok, "checks": [check.model_dump(mode="json") for check in found.checks]})
        return 0 if found.ok else 1
    console = _out()
    for check in found.checks:
        style = _STATUS_STYLES[check.status.value]
        console.print(f"[{style}]{check.status.value:<4}[/{style}]  {check.name:<18} {escape(check.detail)}")
        if check.remedy:
            console.print(f"      {'':<18} → [bold]{escape(check.remedy)}[/bold]")
    failed = sum(check.status.value == "fail" for check in found.checks)
    warned = sum(check.status.value == "warn" for check in found.checks)
    verdict = "[green]ok[/green]" if found.ok else f"[bold red]{failed} failed[/bold red]"
    console.print(f"{verdict}: {len(found.checks)} checks, {failed} failed, {warned} warnings")
    return 0 if found.ok else 1


def search(found: SearchResult, *, as_json: bool) -> None:
    if as_json:
        document(found)
        return
    console = _out()
    if not found.results:
        cut = f" at least {found.threshold:g} similar" if found.threshold is not None else ""
        console.print(f"No tool{cut} was found. `toolbox status` shows how many have an embedding.")
        return
    table = Table(box=None, pad_edge=False, header_style="dim", expand=sys.stdout.isatty())
    table.add_column("", justify="right")
    table.add_column("name", no_wrap=True, style="bold")
    table.add_column("category", no_wrap=True)
    table.add_column("similarity", no_wrap=True)
    table.add_column("description", no_wrap=True, overflow="ellipsis", ratio=1)
    for rank, hit in enumerate(found.results, start=1):
        table.add_row(
            str(rank),
            Text(hit.name),
            Text(hit.category),
            f"{_bar(hit.similarity, 1, 8)} {hit.similarity:.3f}",
            Text(" ".join(hit.description.split())),
        )
    console.print(table)


def tools(total: int, found: Sequence[ToolSummary], *, offset: int, as_json: bool) -> None:
    if as_json:
        document({"total": total, "tools": [tool.model_dump(mode="json") for tool in found]})
        return
    console = _out()
    if not found:
        console.print("No tools. `toolbox import FILE` brings some in, `toolbox import --sample` a catalogue to try.")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("id", justify="right")
    for column in ("name", "category"):
        table.add_column(column, no_wrap=True)
    table.add_column("description", no_wrap=True, overflow="ellipsis")
    for tool in found:
        name = Text(tool.name) if tool.is_active else Text(f"{tool.name} (inactive)", style="dim")
        table.add_row(str(tool.id), name, Text(tool.category), Text(" ".join(tool.description.split())))
    console.print(table)
    console.print(f"{offset + 1}–{offset + len(found)} of {total}" if len(found) < total else f"{total} tools")


def tool(found: Tool, *, as_json: bool) -> None:
    if as_json:
        document(found)
        return
    console = _out()
    for name, value in found.model_dump(mode="json").items():
        if value is None:
            continue
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)
        console.print(f"[dim]{name:<20}[/dim]{escape(text)}")


def switched(found: Tool, *, changed: bool, as_json: bool) -> None:
    state = "active" if found.is_active else "inactive"
    if as_json:
        document({"id": found.id, "name": found.name, "is_active": found.is_active, "changed": changed})
        return
    _out().print(f"{escape(found.name)} is {state}{'' if changed else ' already'}")


def imported(summary: ImportSummary, *, dry_run: bool, as_json: bool) -> int:
    """0 when every entry was right, else 1."""
    if as_json:
        document(summary)
        return 1 if summary.failed else 0
    console = _out()
    would = "would be " if dry_run else ""
    console.print(
        f"{summary.created} {would}created, {summary.updated} updated, {summary.unchanged} unchanged,"
        f" {summary.skipped} skipped, {summary.failed} failed"
    )
    for failure in summary.failures[:_FAILURES_SHOWN]:
        where = f"line {failure.line}" if failure.line is not None else "file"
        name = f" {escape(failure.name)}" if failure.name else ""
        console.print(f"[red]failed[/red]  {where}{name}: {escape(failure.error)}")
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
            _out().print(f"{summary.exported} tools written to {escape(str(file))}")
    for failure in summary.failures[:_FAILURES_SHOWN]:
        report.note(f"not exported: {failure.name} ({failure.id}): {failure.error}")
    return 1 if summary.failed else 0


def trial(found: Trial, *, as_json: bool) -> None:
    if as_json:
        document(found)
        return
    console = _out()
    console.print(f"model      {escape(found.model)}")
    console.print(f"dimension  {found.dimension}")
    console.print(f"norm       {found.norm:.6f}")
    console.print(f"time       {found.seconds * 1000:.1f} ms")


def models(known: Sequence[KnownModel], *, as_json: bool) -> None:
    if as_json:
        document({"models": [_model(model) for model in known]})
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("model", "dimension", "possible", "max tokens", "document prefix", "query prefix"):
        table.add_column(column, justify="right" if column in ("dimension", "max tokens") else "left")
    for model in known:
        table.add_row(
            Text(model.name, no_wrap=True),
            str(model.dimension),
            model.dimensions_text,
            str(model.max_tokens),
            Text(model.document_prefix),
            Text(model.query_prefix),
        )
    _out().print(table)


def _model(model: KnownModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "dimension": model.dimension,
        "matryoshka": list(model.matryoshka) if model.matryoshka else None,
        "dimensions": model.dimensions_text,
        "max_tokens": model.max_tokens,
        "document_prefix": model.document_prefix,
        "query_prefix": model.query_prefix,
        "aliases": list(model.aliases),
    }


def embedded(found: ServerStatus, *, as_json: bool) -> None:
    if as_json:
        document(found)
        return
    console = _out()
    state = f"running (process {found.pid})" if found.running else "stopped"
    console.print(f"server   {state}{', kept until `toolbox db stop`' if found.kept else ''}")
    console.print(f"version  PostgreSQL {found.version}")
    console.print(f"data     {escape(str(found.data_dir))}")
    console.print(f"log      {escape(str(found.log_file))}")


def url(found: str, *, as_json: bool) -> None:
    if as_json:
        document({"url": found})
        return
    sys.stdout.write(found + "\n")
