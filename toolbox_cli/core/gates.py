"""What has to hold before a generation takes over: every tool embedded, an index that finds what it should."""

from __future__ import annotations

from toolbox_cli.domain.models import Census, Check, CheckStatus, Generation
from toolbox_cli.domain.searching import Recall

#: Tools that may have changed since the last reindex and are caught up by the cutover itself: so many, or this share.
CAUGHT_UP, CAUGHT_UP_SHARE = 100, 0.01
#: Where the recall of an index counts as good enough unless the operator says otherwise.
MIN_RECALL = 0.95


def loaded(census: Census) -> bool:
    """Whether the load is over: on a registry in use there are always a few tools that have just changed."""
    return census.missing + census.stale <= max(CAUGHT_UP, CAUGHT_UP_SHARE * census.active)


def _reindex(generation: Generation) -> str:
    """The command that fills a generation: one that was set aside by a roll back is not filled unless asked for."""
    return "toolbox reindex --generation building" if generation.rolled_back_at else "toolbox reindex"


def coverage_gate(generation: Generation, census: Census) -> Check:
    """Whether every active tool has a vector of its present text, but for the last few that a cutover catches up."""
    pending = census.missing + census.stale
    detail = f"{census.fresh} of {census.active} active tools have a fresh embedding"
    if pending:
        detail += f", {pending} are missing or stale"
    if census.failed:
        detail += f", {census.failed} were refused by the service"
    if not loaded(census):
        return _no("coverage", detail, _reindex(generation))
    if census.failed:
        remedy = "mend or switch off the tools that `toolbox reindex` lists as failed, or go on without them: --force"
        return _no("coverage", detail, remedy)
    return _yes("coverage", f"{detail}: caught up at the cutover" if pending else detail)


def index_gate(generation: Generation, fault: str | None) -> Check:
    """Whether search can go by an index; ``fault`` says why the column's does not serve."""
    if generation.index_method == "none":
        return _yes("index", "none, as asked for: every search reads all vectors")
    if fault is None:
        return _yes("index", f"{generation.role.index_name} ({generation.index_method}): valid, fits")
    return _no("index", f"{generation.role.index_name}: {fault}", _reindex(generation))


def recall_gate(found: Recall | None, minimum: float) -> Check:
    """Whether the index finds what an exact search finds; None where there is no index, or nothing to look for."""
    if found is None:
        return Check(name="recall", status=CheckStatus.SKIP, detail="there is no index to hold against an exact search")
    detail = (
        f"the index finds {found.recall:.3f} of what an exact search finds (recall@{found.k}, {found.queries} queries)"
    )
    if found.recall >= minimum:
        return _yes("recall", detail)
    remedy = "toolbox reindex --generation building --rebuild-index, or accept it: --min-recall"
    return _no("recall", f"{detail}, expected at least {minimum:g}", remedy)


def _yes(name: str, detail: str) -> Check:
    return Check(name=name, status=CheckStatus.PASS, detail=detail)


def _no(name: str, detail: str, remedy: str) -> Check:
    return Check(name=name, status=CheckStatus.FAIL, detail=detail, remedy=remedy)
