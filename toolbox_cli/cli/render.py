"""What the operator sees: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from toolbox_cli.cli import report
from toolbox_cli.cli.layout import Column, bar, columns, labelled, paper
from toolbox_cli.cli.progress import BarProgress, NotedProgress
from toolbox_cli.cli.report import plain

if TYPE_CHECKING:
    from toolbox_cli.core.reindex import ReindexOutcome, ReindexPlan
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


def document(value: BaseModel | dict[str, Any]) -> None:
    """One JSON document on stdout. Text stays readable: nothing but control characters is escaped."""
    data = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    readable = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    # Lone surrogates cannot leave as UTF-8; everything else can.
    text = json.dumps(data, ensure_ascii=not readable, indent=2).encode("utf-8", "backslashreplace").decode("utf-8")
    sys.stdout.write(text + "\n")


def progress() -> Progress:
    """A bar where somebody watches, silence elsewhere."""
    console = Console(stderr=True)
    watched = sys.stderr.isatty() and not console.is_dumb_terminal
    return BarProgress(console) if watched else NotedProgress()


def outline(
    found: Outline, *, done: bool, as_json: bool, nothing: str = "Nothing to do: the registry is as asked for."
) -> None:
    """A change of schema or generations, carried out or only planned; ``nothing`` stands for an empty one."""
    if as_json:
        document(found.model_dump(mode="json") | {"done": done and not found.empty})
        return
    console = paper()
    if found.empty:
        console.print(nothing, markup=False)
    for step in found.steps:
        if not step.statements and not step.title.startswith(("migration", "undo")):
            continue
        labelled(console, "done: " if done else "would do: ", step.title, indent=6 if done else 10)
        purposes = list(dict.fromkeys(statement.purpose for statement in step.statements))
        for purpose in purposes or ["nothing had to be changed" if done else "nothing has to be changed"]:
            labelled(console, "  - ", plain(purpose), indent=4)
    for phrase in found.retires:
        labelled(console, "set aside: ", plain(phrase), indent=11)
    for phrase in found.losses:
        label = "lost for good: " if done else "would be lost for good: "
        labelled(console, Text(label, style="red"), plain(phrase), indent=len(label))
    for phrase in found.dependents:
        label = "depends on a column that moves: "
        labelled(console, Text(label, style="yellow"), plain(phrase), indent=len(label))
    for phrase in found.notes:
        console.print(plain(phrase), markup=False)
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


_STATUS_INDENT = 12
_KEPT = "kept for `toolbox rollback` until `toolbox prune`"


def status(found: Status, *, as_json: bool) -> None:
    if as_json:
        document(found)
        return
    console = paper()

    def line(label: str, text: Text | str, style: str = "dim") -> None:
        labelled(console, Text(label, style=style), text, indent=_STATUS_INDENT)

    database = found.database
    pgvector = f"pgvector {database.pgvector_version}" if database.pgvector_version else "without pgvector"
    embedded = " (embedded)" if database.embedded else ""
    line("database", f"PostgreSQL {database.server_version}{embedded}, {pgvector}")
    pending = f"; pending: {', '.join(found.migrations.pending)}" if found.migrations.pending else ""
    line("migrations", f"{len(found.migrations.applied)} applied{pending}")
    if found.problem:
        line("problem", plain(found.problem), "red")
    if found.unadopted:
        line("found", f"a ToolBox registry with {found.unadopted} embeddings, not adopted yet")
    for role in ("current", "building", "previous"):
        generation: GenerationStatus | None = getattr(found.generations, role)
        if generation is not None:
            first, *further = _generation_lines(role, generation)
            line("set aside" if generation.rolled_back else role, first)
            for text in further:
                line("", text)
    for worker in found.workers:
        line("at work", plain(worker))
    current = found.generations.current
    if found.next_command:
        line("next", Text(found.next_command, style="bold"))
    elif current is not None and current.census.active == 0:
        line("next", "no active tools yet: `toolbox import FILE` or `toolbox import --sample` brings some in")
    else:
        line("next", "nothing: every active tool has a fresh embedding")


def _generation_lines(role: str, generation: GenerationStatus) -> list[str]:
    census, index = generation.census, generation.index
    indexed = f"{index.method} index{'' if index.valid else ' (INVALID)'}" if index else "no index"
    lines = [f"{plain(generation.model or 'unknown model')}, {generation.dimension} dimensions, {indexed}"]
    if generation.model is None:
        # Nobody signed them, so none counts as fresh; they are there all the same.
        stored = census.active - census.missing
        lines.append(f"{bar(stored, census.active)} {stored} of {_counted(census.active, 'active tool')} have a vector")
        return [*lines, _KEPT] if role == "previous" else lines
    counts = [f"{census.fresh} of {_counted(census.active, 'active tool')} fresh"]
    counts += [f"{n} {word}" for word in ("stale", "missing", "failed") if (n := getattr(census, word))]
    lines.append(f"{bar(census.fresh, census.active)} {', '.join(counts)}")
    if role == "previous":
        lines.append(_KEPT)
    elif generation.rolled_back:
        lines.append("rolled back from: migrate to it again, or drop it with `toolbox prune`")
    elif generation.endpoint_url:
        lines.append("made in this process, no service needed" if _builtin(generation) else generation.endpoint_url)
    return lines


def _builtin(generation: GenerationStatus) -> bool:
    return generation.endpoint_url == "builtin"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def reindex_plan(plan: ReindexPlan, *, as_json: bool) -> None:
    """What a reindex would do, and why."""
    if as_json:
        document(plan)
        return
    console = paper()
    tools = _counted(plan.selected, "tool")
    console.print(
        f"{plan.pending} of {tools} would be embedded with {plain(plan.model or 'unknown model')}", markup=False
    )
    words = {
        "missing": "no embedding yet",
        "stale": "text, model or template changed",
        "failed_before": "refused before",
    }
    for reason, count in plan.reasons.items():
        if count:
            console.print(f"  {count:>8}  {words.get(reason, 'fresh, taken by --all')}")
    if plan.pending:
        took = "time not measured yet" if plan.seconds is None else f"about {plan.seconds:.0f} s at the measured rate"
        requests = _counted(plan.requests, "request")
        console.print(f"about {plan.estimated_tokens:,} tokens in {requests}, {took}")
    if plan.defers_index:
        console.print("the vector index would be dropped first and built after the load")


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
    console = paper()
    if summary.selected == 0:
        if outcome.stopped_by is None:
            console.print("No tool to embed: none was selected.")
    elif summary.embedded == 0 and summary.failed == 0 and outcome.stopped_by is None:
        fresh = "the tool has" if summary.unchanged == 1 else f"all {summary.unchanged} tools have"
        console.print(f"Nothing to do: {fresh} a fresh embedding.")
    else:
        console.print(
            f"{summary.embedded} embedded, {summary.unchanged} already fresh, {summary.failed} failed"
            f" in {summary.seconds:.1f} s ({summary.tools_per_second:.0f} tools/s)"
        )
    for failure in summary.failures[:_FAILURES_SHOWN]:
        text = f"{failure.id} {plain(failure.name)}: {plain(failure.error)}"
        labelled(console, Text("failed", style="red"), text, indent=8)
    if summary.failed > _FAILURES_SHOWN:
        console.print(f"… and {summary.failed - _FAILURES_SHOWN} more; --json lists them all")


def verification(found: Verification, *, as_json: bool) -> int:
    """0 when no check failed, else 1."""
    if as_json:
        document({"ok": found.ok, "checks": [check.model_dump(mode="json") for check in found.checks]})
        return 0 if found.ok else 1
    console = paper()
    indent = 8 + max((len(check.name) for check in found.checks), default=0)
    for check in found.checks:
        status = Text(f"{check.status.value:<4}", style=_STATUS_STYLES[check.status.value])
        labelled(console, Text.assemble(status, f"  {check.name}"), plain(check.detail), indent=indent)
        if check.remedy:
            labelled(console, "", Text(f"→ {plain(check.remedy)}", style="bold"), indent=indent)
    failed = sum(check.status.value == "fail" for check in found.checks)
    warned = sum(check.status.value == "warn" for check in found.checks)
    skipped = sum(check.status.value == "skip" for check in found.checks)
    counts = [_counted(len(found.checks), "check"), f"{failed} failed", _counted(warned, "warning")]
    if skipped:
        counts.append(f"{skipped} skipped")
    verdict = "[green]ok[/green]" if found.ok else "[bold red]not ok[/bold red]"
    console.print(f"{verdict}: {', '.join(counts)}")
    return 0 if found.ok else 1


def search(found: SearchResult, *, as_json: bool) -> None:
    if as_json:
        document(found)
        return
    console = paper()
    if not found.results:
        cut = f" at least {found.threshold:g} similar" if found.threshold is not None else ""
        console.print(f"No tool{cut} was found. `toolbox status` shows how many have an embedding.", markup=False)
        return
    heads = (
        Column("", right=True, fixed=True),
        Column("name", style="bold"),
        Column("category"),
        Column("similarity", fixed=True),
        Column("description"),
    )
    rows = [
        (str(rank), hit.name, hit.category, f"{bar(hit.similarity, 1, 8)} {hit.similarity:.3f}", hit.description)
        for rank, hit in enumerate(found.results, start=1)
    ]
    columns(console, heads, rows)


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
        console.print(f"There are {_counted(total, 'tool')}{where}, none after {offset}.", markup=False)
        return
    heads = (Column("id", right=True, fixed=True), Column("name", style="bold"), Column("category"))
    rows = [
        (str(tool.id), f"{tool.name}{'' if tool.is_active else ' (inactive)'}", tool.category, tool.description)
        for tool in found
    ]
    columns(console, (*heads, Column("description")), rows)
    counted = _counted(total, "tool" if inactive else "active tool")
    # Not on stdout in a pipe: a script that counts lines must not count this one.
    summary = f"{offset + 1}–{offset + len(found)} of {counted}{where}" if len(found) < total else f"{counted}{where}"
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
            paper().print(f"{_counted(summary.exported, 'tool')} written to {escape(str(file))}")
    for failure in summary.failures[:_FAILURES_SHOWN]:
        report.note(f"not exported: {failure.name} ({failure.id}): {failure.error}")
    return 1 if summary.failed else 0


def trial(found: Trial, *, as_json: bool) -> None:
    if as_json:
        document(found)
        return
    console = paper()
    service = "builtin (in this process, no service needed)" if found.endpoint_url == "builtin" else found.endpoint_url
    lines = {
        "service": service,
        "model": plain(found.model),
        "dimension": str(found.dimension),
        "norm": f"{found.norm:.6f}",
        "time": f"{found.seconds * 1000:.1f} ms, loading or connecting included",
    }
    for name, value in lines.items():
        labelled(console, Text(name, style="dim"), value, indent=11)


def models(known: Sequence[KnownModel], *, as_json: bool) -> None:
    if as_json:
        document({"models": [_model(model) for model in known]})
        return
    console = paper()
    heads = (
        Column("model", style="bold", fixed=True),
        Column("dimension", right=True, fixed=True),
        Column("can make", fixed=True),
        Column("longest input", right=True, fixed=True),
    )
    rows = [(m.name, str(m.dimension), m.dimensions_text, f"{m.max_tokens} tokens") for m in known]
    columns(console, heads, rows)
    by_prefixes: dict[tuple[str, str], list[str]] = {}
    for model in known:
        by_prefixes.setdefault((model.document_prefix, model.query_prefix), []).append(model.name)
    console.print("\nPut before every text, because the models were trained so:")
    for (document_prefix, query_prefix), names in by_prefixes.items():
        if document_prefix or query_prefix:
            console.print()
            labelled(console, "  ", Text(", ".join(names), style="bold"), indent=2)
            for kind, prefix in (("document", document_prefix), ("query", query_prefix)):
                if prefix:
                    labelled(console, f"    {kind}", json.dumps(prefix, ensure_ascii=False), indent=14)


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
    console = paper()
    state = f"running (process {found.pid})" if found.running else "stopped"
    lines = {
        "server": f"{state}{', kept until `toolbox db stop`' if found.kept else ''}",
        "version": f"PostgreSQL {found.version}",
        "data": str(found.data_dir),
        "log": str(found.log_file),
    }
    for name, value in lines.items():
        labelled(console, Text(name, style="dim"), value, indent=9)


def url(found: str, *, as_json: bool) -> None:
    if as_json:
        document({"url": found})
        return
    sys.stdout.write(found + "\n")
