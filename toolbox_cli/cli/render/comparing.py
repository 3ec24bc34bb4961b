"""Two generations side by side, on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from toolbox_cli.cli.render.layout import Column, bar, columns, labelled, paper
from toolbox_cli.cli.render.output import counted, document
from toolbox_cli.cli.report import plain

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from toolbox_cli.domain.comparison import Change, Comparison, SideReport

_CHANGES_SHOWN = 3
_RESULTS_SHOWN = 5
_INDENT = 12
_VERDICTS = {"better": "green", "worse": "bold red", "unclear": "dim"}


def comparison(found: Comparison, *, html: Path | None, as_json: bool) -> None:
    if html is not None:
        from toolbox_cli.cli.render.html_report import write_comparison

        write_comparison(found, html)
    if as_json:
        document(found)
        return
    console = paper()
    asked = f"{counted(found.questions, 'question')} from {found.questions_from}, the first {found.limit} results"
    _line(console, "asked", asked)
    _line(console, "old", _side(found.old))
    _line(console, "new", _side(found.new))
    console.print()
    columns(console, _HEADS, _rows(found))
    console.print()
    agreement = found.agreement
    _line(
        console,
        "agreement",
        f"{bar(agreement.overlap, 1)} {agreement.overlap:.0%} of the results are the same, the first one for"
        f" {agreement.first_same:.0%} of the questions; what both show is {agreement.mean_shift:.1f} places apart",
    )
    for threshold in found.thresholds:
        same = (
            "nothing to hold it against" if threshold.new is None else f"{threshold.new:.3f} of the new does the same"
        )
        _line(
            console,
            "threshold",
            f"{threshold.old:g} of the old lets {threshold.share:.1%} of the 50 nearest through: {same}",
        )
    for change in found.changes[:_CHANGES_SHOWN]:
        console.print()
        _change(console, change)
    if html is not None:
        console.print(f"\nwritten to {plain(str(html))}", markup=False)


_HEADS = (
    Column("", fixed=True),
    Column("old", right=True, fixed=True),
    Column("new", right=True, fixed=True),
    Column("difference", right=True, fixed=True),
    Column("95 % interval", fixed=True),
    Column("", fixed=True),
)


def _rows(found: Comparison) -> list[tuple[str, ...]]:
    old, new = found.old, found.new
    rows: list[tuple[str, ...]] = [
        (
            d.measure,
            f"{d.old:.3f}",
            f"{d.new:.3f}",
            f"{d.difference:+.3f}",
            f"{d.low:+.3f} … {d.high:+.3f}",
            d.verdict,
        )
        for d in found.differences
    ]
    pairs = (
        ("similarity of the first", old.similarities.first_median, new.similarities.first_median, "{:.3f}"),
        (
            f"similarity of the {_ordinal(found.limit)}",
            old.similarities.last_median,
            new.similarities.last_median,
            "{:.3f}",
        ),
        ("suggested --threshold", old.suggested_threshold, new.suggested_threshold, "{:.2f}"),
        ("recall of the index", old.index_recall, new.index_recall, "{:.3f}"),
        ("embedding, ms", old.latency.embedding_p50, new.latency.embedding_p50, "{:.1f}"),
        ("database, ms", old.latency.database_p50, new.latency.database_p50, "{:.1f}"),
    )
    for name, before, after, form in pairs:
        cells = ["–" if value is None else form.format(value) for value in (before, after)]
        rows.append((name, *cells, "", "", ""))
    return rows


def _change(console: Console, change: Change) -> None:
    """One question and what each shows, side by side; a relevant tool has a mark."""
    console.print(Text.assemble(("changed", "dim"), f"     {plain(change.query)}"), soft_wrap=not console.is_terminal)
    relevant = set(change.relevant)
    heads = (
        Column("", right=True, fixed=True),
        Column("old"),
        Column("", right=True, fixed=True),
        Column("new"),
        Column("", right=True, fixed=True),
    )
    rows = []
    for place in range(min(_RESULTS_SHOWN, max(len(change.old), len(change.new)))):
        cells = [str(place + 1)]
        for hits in (change.old, change.new):
            if place < len(hits):
                mark = " *" if hits[place].name in relevant else ""
                cells += [f"{hits[place].name}{mark}", f"{hits[place].similarity:.3f}"]
            else:
                cells += ["", ""]
        rows.append(cells)
    columns(console, heads, rows)


def _side(side: SideReport) -> str:
    return f"{plain(side.model or 'unknown model')}, {side.dimension} dimensions ({side.role})"


def _line(console: Console, label: str, text: str) -> None:
    labelled(console, Text(label, style="dim"), text, indent=_INDENT)


def _ordinal(number: int) -> str:
    endings = {1: "st", 2: "nd", 3: "rd"}
    return f"{number}{'th' if number % 100 in (11, 12, 13) else endings.get(number % 10, 'th')}"
