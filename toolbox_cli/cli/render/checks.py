"""Checks with their remedies: what verify found, and what a cutover asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from toolbox_cli.cli.render.layout import labelled, paper
from toolbox_cli.cli.render.output import counted, document
from toolbox_cli.cli.report import plain

if TYPE_CHECKING:
    from rich.console import Console

    from toolbox_cli.core.checks.verification import Verification
    from toolbox_cli.domain.changes import CutoverReport, Side
    from toolbox_cli.domain.models import Check
    from toolbox_cli.domain.profiles import ServiceProfile

_STATUS_STYLES = {"pass": "green", "warn": "yellow", "fail": "bold red", "skip": "dim"}


def check_lines(console: Console, checks: Sequence[Check]) -> None:
    """A line a check, and under one that does not hold the command that mends it."""
    indent = 8 + max((len(check.name) for check in checks), default=0)
    for check in checks:
        status = Text(f"{check.status.value:<4}", style=_STATUS_STYLES[check.status.value])
        labelled(console, Text.assemble(status, f"  {check.name}"), plain(check.detail), indent=indent)
        if check.remedy:
            labelled(console, "", Text(f"→ {plain(check.remedy)}", style="bold"), indent=indent)


def verification(found: Verification, *, as_json: bool) -> int:
    """0 when no check failed, else 1."""
    if as_json:
        checks = [check.model_dump(mode="json") for check in found.checks]
        profile = {"profile": found.profile.model_dump(mode="json")} if found.profile is not None else {}
        document({"ok": found.ok, "checks": checks} | profile)
        return 0 if found.ok else 1
    console = paper()
    check_lines(console, found.checks)
    failed = sum(check.status.value == "fail" for check in found.checks)
    warned = sum(check.status.value == "warn" for check in found.checks)
    skipped = sum(check.status.value == "skip" for check in found.checks)
    counts = [counted(len(found.checks), "check"), f"{failed} failed", counted(warned, "warning")]
    if skipped:
        counts.append(f"{skipped} skipped")
    verdict = "[green]ok[/green]" if found.ok else "[bold red]not ok[/bold red]"
    console.print(f"{verdict}: {', '.join(counts)}")
    if found.profile is not None:
        _profile(console, found.profile)
    return 0 if found.ok else 1


def _profile(console: Console, found: ServiceProfile) -> None:
    """What the service turned out to do."""
    refused = "" if found.batch_refused_at is None else f" texts, {found.batch_refused_at} are refused"
    beyond = {
        "refused": "longer ones are refused",
        "cut": "the end of longer ones makes no difference: they are cut, and nothing is said",
        "read": "no limit was met",
    }[found.long_inputs]
    order = {"kept": "in the order of the texts", "by index": "in another order, told by their index", "lost": "LOST"}
    encoding = {True: "understood", False: "ignored: numbers come", None: None}[found.base64]
    length = "of length 1" if found.normalised else "of any length"
    lines = {
        "model": f"{found.model}, {found.dimension} dimensions, {length}",
        "batch": f"{found.largest_batch}{refused or ' texts and more'}",
        "input": f"{found.longest_input} words are read to the end; {beyond}",
        "answers": f"{order[found.order]}; alone and in a batch they agree to {found.agreement:.6f}",
        "base64": encoding,
        "dimensions": f"the parameter is {found.dimensions}" if found.dimensions else None,
        "no such model": f"a model that does not exist is {found.unknown_model}" if found.unknown_model else None,
        "speed": f"{found.latency_seconds * 1000:.1f} ms alone, {found.texts_per_second:,.0f} texts/s in batches",
    }
    console.print()
    for name, value in lines.items():
        if value is not None:
            labelled(console, Text(name, style="dim"), plain(value), indent=15)


def cutover(found: CutoverReport, *, dry_run: bool, as_json: bool) -> int:
    """0 when it was done, or could be; 1 when a check refused it."""
    if as_json:
        document(found)
    else:
        cutover_text(found, dry_run=dry_run)
    return 1 if refuses(found) else 0


def refuses(found: CutoverReport) -> bool:
    """Whether a check said no, and was heeded."""
    return not found.done and any(check.status.value == "fail" for check in found.checks)


def cutover_text(found: CutoverReport, *, dry_run: bool) -> None:
    console = paper()
    check_lines(console, found.checks)
    former, present = _side(found.former), _side(found.present)
    if found.already_since is not None:
        console.print(f"Nothing to do: search reads {present} since {found.already_since:%Y-%m-%d %H:%M:%S} UTC.")
        return
    if not found.done:
        refused = sum(check.status.value == "fail" for check in found.checks)
        if refused:
            console.print(
                f"[bold red]not cut over[/bold red]: {counted(refused, 'check')} failed; search reads {former}"
            )
        elif dry_run:
            console.print(f"ready: search would read {present}, after {former}")
        for phrase in found.outline.losses:
            labelled(console, Text("would be lost for good: ", style="red"), plain(phrase), indent=24)
        for phrase in found.outline.dependents:
            labelled(console, Text("depends on a column that moves: ", style="yellow"), plain(phrase), indent=32)
        return
    caught_up = f"{counted(found.caught_up, 'tool')} caught up, " if found.caught_up else ""
    milliseconds = (found.locked_seconds or 0.0) * 1000
    console.print(f"done: search reads {present}; {caught_up}nobody waited longer than {milliseconds:.0f} ms")
    for phrase in found.outline.losses:
        labelled(console, Text("lost for good: ", style="red"), plain(phrase), indent=15)
    failed = [check.name for check in found.checks if check.status.value == "fail"]
    if failed:
        names = ", ".join(failed)
        console.print(f"Next: [bold]toolbox verify[/bold] looks again at what was no obstacle: {names}")
    console.print(f"kept for `toolbox rollback` until `toolbox prune`: {former}", markup=False)
    if found.settings:
        console.print(f"Now {plain(found.settings)}", markup=False)


def _side(side: Side) -> str:
    return f"{plain(side.model or 'an unknown model')}, {side.dimension} dimensions"
