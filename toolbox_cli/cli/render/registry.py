"""The registry as an operator sees it: plans, status, the embedded server."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.text import Text

from toolbox_cli.cli.render.layout import bar, labelled, paper
from toolbox_cli.cli.render.output import counted, document
from toolbox_cli.cli.report import plain

if TYPE_CHECKING:
    from toolbox_cli.core.status import Ahead, GenerationStatus, Status
    from toolbox_cli.db.embedded import ServerStatus
    from toolbox_cli.domain.changes import Outline


_LEFT_TO_DO = "[bold]toolbox status[/bold] shows what is left to do."


def outline(
    found: Outline, *, done: bool, as_json: bool, nothing: str | None = None, ahead: Ahead | None = None
) -> None:
    """A change of schema or generations, carried out or only planned.

    ``nothing`` stands for an empty one; ``ahead`` is what comes next for the generation that is being built.
    """
    if as_json:
        document(found.model_dump(mode="json") | {"done": done and not found.empty})
        return
    console = paper()
    if found.empty:
        as_it_is = "these embeddings are being built already" if ahead else "the registry is as asked for"
        console.print(nothing or f"Nothing to do: {as_it_is}.", markup=False)
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
    if done and found.retires:
        meanwhile = "until then search goes by words only"
        console.print(f"Next: [bold]toolbox reindex[/bold] embeds the tools again; {meanwhile}.")
    elif done and (ahead or not found.empty):
        console.print(f"Next: {_next(ahead)}")
    if found.settings:
        console.print(f"Now {plain(found.settings)}", markup=False)


def _next(ahead: Ahead | None) -> str:
    if ahead is not None and ahead.command == "toolbox cutover":
        last = f", and makes the last {ahead.pending} itself" if ahead.pending else ": they are all there"
        return f"[bold]toolbox cutover[/bold] lets search read the new embeddings{last}."
    if ahead is not None and ahead.command == "toolbox reindex":
        does = "fills the new column" if ahead.pending else "brings what search reads up to date"
        return f"[bold]toolbox reindex[/bold] {does}; search goes on with the present embeddings."
    return _LEFT_TO_DO


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
    for phrase in found.blockers or ():
        line("blocked", plain(phrase), "yellow")
    for phrase in found.contradictions:
        line("settings", plain(phrase), "red")
    for worker in found.workers:
        line("at work", plain(worker))
    current = found.generations.current
    if found.next_command:
        line("next", Text(found.next_command, style="bold"))
        if found.next_command == "toolbox cutover":
            line("", "`toolbox compare` shows what it would change, `toolbox cutover --dry-run` whether it would pass")
    elif found.contradictions:
        line("next", Text("toolbox verify", style="bold"))
    elif current is not None and current.census.active == 0:
        line("next", "no active tools yet: `toolbox import FILE` or `toolbox import --sample` brings some in")
    else:
        line("next", "nothing: every active tool has a fresh embedding")


def _generation_lines(role: str, generation: GenerationStatus) -> list[str]:
    census, index = generation.census, generation.index
    indexed = f"{index.method} index{'' if index.valid else ' (INVALID)'}" if index else "no index"
    if generation.index_build is not None:
        share = generation.index_build.share
        far = "" if share is None else f" {share:.0%}"
        indexed = f"index: {plain(generation.index_build.phase)}{far}"
    lines = [f"{plain(generation.model or 'unknown model')}, {generation.dimension} dimensions, {indexed}"]
    if generation.model is None:
        # Nobody signed them, so none counts as fresh; they are there all the same.
        stored = census.active - census.missing
        lines.append(f"{bar(stored, census.active)} {stored} of {counted(census.active, 'active tool')} have a vector")
        if role == "previous":
            lines.append(_KEPT)
        elif generation.rolled_back:
            lines.append("set aside; nobody knows which model made them: `toolbox prune` drops them")
        return lines
    counts = [f"{census.fresh} of {counted(census.active, 'active tool')} fresh"]
    counts += [f"{n} {word}" for word in ("stale", "missing", "failed") if (n := getattr(census, word))]
    if generation.seconds_left:
        counts.append(f"about {_duration(generation.seconds_left)} at the measured speed")
    lines.append(f"{bar(census.fresh, census.active)} {', '.join(counts)}")
    if generation.suggested_threshold is not None:
        lines.append(f"search --threshold {generation.suggested_threshold:g} leaves out what is hardly related")
    if role == "previous":
        lines.append(_KEPT)
    elif generation.rolled_back:
        lines.append("rolled back from: migrate to it again, or drop it with `toolbox prune`")
    elif generation.endpoint_url:
        lines.append("made in this process, no service needed" if _builtin(generation) else generation.endpoint_url)
    return lines


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _builtin(generation: GenerationStatus) -> bool:
    return generation.endpoint_url == "builtin"


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
