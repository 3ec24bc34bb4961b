"""A comparison as one page that needs nothing but itself: charts, tables, light and dark.

Plotly draws, and its script is put into the page: nothing is fetched when it is opened.
"""

from __future__ import annotations

import html
import json
from importlib import util
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from toolbox_cli.domain.errors import ConfigurationError, InvalidUsageError

if TYPE_CHECKING:
    from pathlib import Path

    from toolbox_cli.domain.comparison import Change, Comparison, SideReport

#: Told apart in both themes and by most colour-blind eyes (Okabe and Ito, 2008).
OLD_COLOUR, NEW_COLOUR = "#0072B2", "#E69F00"

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --faint: #6a737d; --line: #d8dee4;
        --mark: #1a7f37; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --paper: #0d1117; --faint: #8b949e; --line: #30363d; --mark: #3fb950; } }
body { margin: 2rem auto; max-width: 68rem; padding: 0 1rem; color: var(--ink); background: var(--paper);
       font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; }
p.note, td.faint, th { color: var(--faint); }
table { border-collapse: collapse; } th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line); }
th { text-align: left; font-weight: 500; } td.number { text-align: right; font-variant-numeric: tabular-nums; }
.better { color: var(--mark); font-weight: 600; } .worse { color: #cf222e; font-weight: 600; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 1.5rem; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1.5rem; } .pair table { width: 100%; }
details { border-top: 1px solid var(--line); padding: .5rem 0; } summary { cursor: pointer; }
.relevant { color: var(--mark); font-weight: 600; }
"""

# Plotly's layouts have no notion of a theme; the page's own colours are read when it is opened, and when it changes.
_SCRIPT = """
const charts = CHARTS;
function paint() {
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue('--ink').trim(), line = style.getPropertyValue('--line').trim();
  for (const [name, figure] of Object.entries(charts)) {
    const axes = {};
    for (const axis of ['xaxis', 'yaxis']) {
      axes[axis] = Object.assign({}, figure.layout[axis], {gridcolor: line, zerolinecolor: line, linecolor: line});
    }
    const layout = Object.assign({}, figure.layout, axes, {font: {color: ink, family: 'system-ui, sans-serif'},
      paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)'});
    Plotly.react(name, figure.data, layout, {displayModeBar: false, responsive: true});
  }
}
paint();
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', paint);
"""


def check_report(path: Path | None) -> None:
    """Raise before anything is asked or paid: InvalidUsageError for a file that cannot be written, ConfigurationError
    where the library that draws is not installed.
    """
    if path is None:
        return
    if path.is_dir() or not path.parent.is_dir():
        raise InvalidUsageError(f"{path} cannot be written", hint="Name a file in a folder that is there.")
    if util.find_spec("plotly") is None:
        raise ConfigurationError(
            "the library that draws the charts is not installed", hint="pip install 'toolbox-cli[report]'"
        )


def write_comparison(found: Comparison, path: Path) -> None:
    """Write the page; raises InvalidUsageError when the file cannot be written."""
    from plotly.offline import get_plotlyjs

    charts = _charts(found)
    boxes = "".join(f'<div id="{name}" style="height:22rem"></div>' for name in charts)
    script = _SCRIPT.replace("CHARTS", json.dumps(charts).replace("</", "<\\/"))
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>toolbox compare</title><style>{_STYLE}</style><script>{get_plotlyjs()}</script></head>
<body>
<h1>{_side(found.old)} → {_side(found.new)}</h1>
<p class="note">{found.questions} questions from {html.escape(found.questions_from)}, {found.labelled} of them with the
tools that answer them; the first {found.limit} results count.</p>
{_summary(found)}
<h2>Distributions</h2><div class="charts">{boxes}</div>
<h2>Thresholds</h2>{_thresholds(found)}
<h2>The questions that change most</h2>{"".join(_change(change) for change in found.changes)}
<script>{script}</script></body></html>
"""
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as exc:
        raise InvalidUsageError(f"{path} cannot be written: {exc.strerror}", hint="Name another file.") from exc


def _charts(found: Comparison) -> dict[str, dict[str, Any]]:
    """Plotly figures by the id of their boxes."""
    import plotly.graph_objects as go

    charts: dict[str, Any] = {}
    similarity = go.Figure()
    for side, label, colour in ((found.old, "old", OLD_COLOUR), (found.new, "new", NEW_COLOUR)):
        edges = side.similarities.edges
        middles = [(low + high) / 2 for low, high in pairwise(edges)]
        similarity.add_bar(x=middles, y=side.similarities.counts, name=label, marker_color=colour, opacity=0.65)
    charts["similarity"] = similarity.update_layout(
        title="Similarity of the results", barmode="overlay", bargap=0, xaxis_title="cosine", yaxis_title="results"
    )
    shared = go.Figure(go.Bar(y=found.agreement.histogram, marker_color=NEW_COLOUR))
    charts["overlap"] = shared.update_layout(
        title="Results that both show", xaxis_title=f"of {found.limit}", yaxis_title="questions"
    )
    if found.differences:
        quality = go.Figure()
        measures = [difference.measure for difference in found.differences]
        quality.add_bar(x=measures, y=[d.old for d in found.differences], name="old", marker_color=OLD_COLOUR)
        quality.add_bar(
            x=measures,
            y=[d.new for d in found.differences],
            name="new",
            marker_color=NEW_COLOUR,
            error_y={
                "array": [d.high - d.difference for d in found.differences],
                "arrayminus": [d.difference - d.low for d in found.differences],
                "color": "#8b949e",
            },
        )
        charts["quality"] = quality.update_layout(title="Quality, with the 95 % interval of the difference")
    latency = go.Figure()
    for side, label, colour in ((found.old, "old", OLD_COLOUR), (found.new, "new", NEW_COLOUR)):
        times = side.latency
        latency.add_bar(
            x=["embedding p50", "embedding p95", "database p50", "database p95"],
            y=[times.embedding_p50, times.embedding_p95, times.database_p50, times.database_p95],
            name=label,
            marker_color=colour,
        )
    charts["latency"] = latency.update_layout(title="Time of a question", yaxis_title="ms")
    return {name: json.loads(figure.update_layout(template="none").to_json()) for name, figure in charts.items()}


def _summary(found: Comparison) -> str:
    rows = "".join(
        f'<tr><td>{d.measure}</td>{_number(d.old)}{_number(d.new)}<td class="number">{d.difference:+.3f}</td>'
        f'<td class="faint">{d.low:+.3f} … {d.high:+.3f}</td><td class="{d.verdict}">{d.verdict}</td></tr>'
        for d in found.differences
    )
    old, new, agreement = found.old, found.new, found.agreement
    rows += "".join(
        f"<tr><td>{name}</td>{_number(before)}{_number(after)}<td></td><td></td><td></td></tr>"
        for name, before, after in (
            ("similarity of the first result", old.similarities.first_median, new.similarities.first_median),
            (f"similarity of result {found.limit}", old.similarities.last_median, new.similarities.last_median),
            ("suggested --threshold", old.suggested_threshold, new.suggested_threshold),
            ("recall of the index", old.index_recall, new.index_recall),
        )
    )
    return (
        "<table><tr><th></th><th>old</th><th>new</th><th>difference</th><th>95 % interval</th><th></th></tr>"
        f"{rows}</table><p>{agreement.overlap:.0%} of the results are the same, the first one for"
        f" {agreement.first_same:.0%} of the questions; what both show is {agreement.mean_shift:.1f} places apart.</p>"
    )


def _thresholds(found: Comparison) -> str:
    rows = "".join(
        f"<tr>{_number(t.old)}<td class='number'>{t.share:.1%}</td>{_number(t.new)}</tr>" for t in found.thresholds
    )
    return f"<table><tr><th>old</th><th>of the 50 nearest pass</th><th>new, for the same share</th></tr>{rows}</table>"


def _change(change: Change) -> str:
    relevant = set(change.relevant)
    tables = []
    for label, hits in (("old", change.old), ("new", change.new)):
        rows = "".join(
            f'<tr><td class="number">{place}</td><td class="{"relevant" if hit.name in relevant else ""}">'
            f'{html.escape(hit.name)}</td><td class="number">{hit.similarity:.3f}</td></tr>'
            for place, hit in enumerate(hits, start=1)
        )
        tables.append(f"<table><tr><th></th><th>{label}</th><th></th></tr>{rows}</table>")
    return (
        f"<details><summary>{html.escape(change.query)} <span class='note'>({change.overlap:.0%} the same)</span>"
        f'</summary><div class="pair">{"".join(tables)}</div></details>'
    )


def _number(value: float | None) -> str:
    return f'<td class="number">{"–" if value is None else f"{value:.3f}"}</td>'


def _side(side: SideReport) -> str:
    return f"{html.escape(side.model or 'unknown model')} ({side.dimension})"
