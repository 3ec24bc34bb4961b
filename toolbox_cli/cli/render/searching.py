"""What was found, how, and how well that works."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from toolbox_cli.cli.render.layout import Column, bar, columns, labelled, paper
from toolbox_cli.cli.render.output import counted, document
from toolbox_cli.cli.report import plain

if TYPE_CHECKING:
    from rich.console import Console

    from toolbox_cli.domain.evaluation import Evaluation, Miss
    from toolbox_cli.domain.models import Explanation, SearchHit, SearchResult

_MISSES_SHOWN = 5
_INDENT = 11


def search(found: SearchResult, *, explain: bool, as_json: bool) -> None:
    """Rank, name, category, how similar, description; ``explain`` adds how they were found."""
    if as_json:
        document(found.model_dump(mode="json", exclude=set() if explain else {"explanation"}))
        return
    console = paper()
    if found.results:
        heads = [Column("", right=True, fixed=True), Column("name", style="bold"), Column("category")]
        heads += [Column(head, fixed=True) for head in _STRENGTHS[found.mode]]
        rows = [
            (str(rank), hit.name, hit.category, *_strengths(hit, found.mode), hit.description)
            for rank, hit in enumerate(found.results, start=1)
        ]
        columns(console, [*heads, Column("description")], rows)
    else:
        reason = found.reason or "nothing was found"
        console.print(f"No tool was found: {plain(reason)}.", markup=False)
    if explain and found.explanation is not None:
        _explain(console, found.explanation)


#: What is shown of how well a tool answers, by mode.
_STRENGTHS = {"vector": ("similarity",), "text": ("words",), "hybrid": ("similarity", "words")}


def _strengths(hit: SearchHit, mode: str) -> list[str]:
    words = hit.coverage or 0.0
    if mode == "text":
        return [f"{bar(words, 1, 8)} {words:4.0%}"]
    similarity = "not embedded" if hit.similarity is None else f"{bar(hit.similarity, 1, 8)} {hit.similarity:.3f}"
    return [similarity] if mode == "vector" else [similarity, f"{words:4.0%}" if words else ""]


def _explain(console: Console, how: Explanation) -> None:
    def milliseconds(seconds: float) -> str:
        return f"{seconds * 1000:.1f} ms"

    path = f"{how.path}, {counted(how.candidates, 'candidate')}"
    if how.index:
        path = f"{how.index} (ef_search {how.ef_search}), more than {how.candidates - 1} candidates"
    lines = {
        "mode": how.mode,
        "model": how.model,
        "path": path,
        "embedding": milliseconds(how.embedding_seconds) if how.embedding_seconds else None,
        "database": milliseconds(how.database_seconds),
        "total": milliseconds(how.total_seconds),
    }
    console.print()
    for name, value in lines.items():
        if value is not None:
            labelled(console, Text(name, style="dim"), plain(value), indent=_INDENT)


def evaluation(found: Evaluation, *, as_json: bool) -> None:
    if as_json:
        document(found)
        return
    console = paper()
    measures = list(next(iter(found.modes.values())))
    heads = (Column("mode", fixed=True), *(Column(measure, fixed=True) for measure in measures))
    rows = []
    for mode, values in found.modes.items():
        bounds = found.intervals[mode]
        rows.append((mode, *(f"{values[m]:.3f} ({bounds[m][0]:.2f}–{bounds[m][1]:.2f})" for m in measures)))
    columns(console, heads, rows)
    asked = f"{counted(found.queries, 'question')}, model {found.model or 'unknown'}; in brackets the 95 % interval"
    if found.skipped:
        asked += f"; {found.skipped} left out, for none of their tools is an active one here"
    console.print(plain(asked), style="dim", markup=False)
    for miss in found.misses[:_MISSES_SHOWN]:
        _miss(console, miss)


def _miss(console: Console, miss: Miss) -> None:
    place = "not among the first ten" if miss.place is None else f"found at {miss.place}"
    console.print()
    labelled(console, Text("missed", style="dim"), plain(miss.query), indent=_INDENT)
    labelled(console, "", f"right: {plain(', '.join(miss.relevant))} ({place})", indent=_INDENT)
    labelled(console, "", f"shown: {plain(', '.join(miss.found)) or 'nothing'}", indent=_INDENT)
