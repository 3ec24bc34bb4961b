"""Embedding as an operator sees it: reindex, verify, embed, models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

from toolbox_cli.cli.render.checks import cutover_text, refuses
from toolbox_cli.cli.render.layout import Column, columns, labelled, paper
from toolbox_cli.cli.render.output import counted, document
from toolbox_cli.cli.report import plain

if TYPE_CHECKING:
    from toolbox_cli.core.reindex import ReindexOutcome, ReindexPlan
    from toolbox_cli.core.try_out import Trial
    from toolbox_cli.domain.catalog import KnownModel
    from toolbox_cli.domain.models import ReindexSummary


_FAILURES_SHOWN = 20


def reindex_plan(plan: ReindexPlan, *, as_json: bool) -> None:
    """What a reindex would do, and why."""
    if as_json:
        document(plan)
        return
    for one in (*plan.others, plan):
        _plan_text(one, several=bool(plan.others))


def _plan_text(plan: ReindexPlan, *, several: bool) -> None:
    console = paper()
    tools = counted(plan.selected, "tool")
    which = f"{plan.generation}: " if several else ""
    console.print(
        f"{which}{plan.pending} of {tools} would be embedded with {plain(plan.model or 'unknown model')}", markup=False
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
        requests = counted(plan.requests, "request")
        console.print(f"about {plan.estimated_tokens:,} tokens in {requests}, {took}")
    if plan.defers_index:
        console.print("the vector index would be dropped first and built after the load")
    elif plan.builds_index:
        console.print("the vector index would be built")


def reindex(outcome: ReindexOutcome, *, as_json: bool) -> int:
    """The summary of a run; raises the error that ended it early, after what was done has been shown."""
    summaries = [*outcome.others, outcome.summary]
    if as_json:
        others = [other.model_dump(mode="json") for other in outcome.others]
        cutover = outcome.cutover.model_dump(mode="json") if outcome.cutover else None
        document(outcome.summary.model_dump(mode="json") | {"others": others, "cutover": cutover})
    else:
        for summary in summaries:
            _summary_text(summary, ended_early=outcome.stopped_by is not None, several=bool(outcome.others))
        if outcome.cutover is not None:
            cutover_text(outcome.cutover, dry_run=False)
    if outcome.stopped_by is not None:
        raise outcome.stopped_by
    refused = outcome.cutover is not None and refuses(outcome.cutover)
    return 1 if refused or any(summary.failed for summary in summaries) else 0


def _summary_text(summary: ReindexSummary, *, ended_early: bool, several: bool) -> None:
    console = paper()
    which = f"{summary.generation}: " if several else ""
    if summary.selected == 0:
        if not ended_early:
            console.print(
                f"{which}No tool to embed: no active tool is there, or none that was asked for (`toolbox list`)."
            )
    elif summary.embedded == 0 and summary.failed == 0 and not ended_early:
        fresh = "the tool has" if summary.unchanged == 1 else f"all {summary.unchanged} tools have"
        done = "Nothing to embed" if summary.index_seconds else "Nothing to do"
        console.print(f"{which}{done}: {fresh} a fresh embedding.")
    elif summary.embedded or summary.failed or not ended_early:
        console.print(
            f"{which}{summary.embedded} embedded, {summary.unchanged} already fresh, {summary.failed} failed"
            f" in {summary.seconds:.1f} s ({summary.tools_per_second:.0f} tools/s)"
        )
    if summary.index_seconds:
        console.print(f"{which}vector index built in {summary.index_seconds:.1f} s")
    for failure in summary.failures[:_FAILURES_SHOWN]:
        text = f"{failure.id} {plain(failure.name)}: {plain(failure.error)}"
        labelled(console, Text("failed", style="red"), text, indent=8)
    if summary.failed > _FAILURES_SHOWN:
        console.print(f"… and {summary.failed - _FAILURES_SHOWN} more; --json lists them all")


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
