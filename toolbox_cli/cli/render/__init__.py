"""What the operator sees: results on stdout, everything else on stderr. The only package that imports rich.

Each function is loaded at its first use: a search must not wait for the pages of a migration. So no module here has the
name of one of them: it would take its place.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolbox_cli.cli.render.checks import cutover, verification
    from toolbox_cli.cli.render.comparing import comparison
    from toolbox_cli.cli.render.embeddings import models, reindex, reindex_plan, trial
    from toolbox_cli.cli.render.html_report import check_report
    from toolbox_cli.cli.render.listing import exported, imported, switched, tool, tools
    from toolbox_cli.cli.render.output import progress
    from toolbox_cli.cli.render.registry import embedded, outline, sql, status, url
    from toolbox_cli.cli.render.searching import evaluation, search

_ROOMS = {
    "checks": ("cutover", "verification"),
    "comparing": ("comparison",),
    "embeddings": ("models", "reindex", "reindex_plan", "trial"),
    "html_report": ("check_report",),
    "output": ("progress",),
    "registry": ("embedded", "outline", "sql", "status", "url"),
    "searching": ("evaluation", "search"),
    "listing": ("exported", "imported", "switched", "tool", "tools"),
}

__all__ = [
    "check_report",
    "comparison",
    "cutover",
    "embedded",
    "evaluation",
    "exported",
    "imported",
    "models",
    "outline",
    "progress",
    "reindex",
    "reindex_plan",
    "search",
    "sql",
    "status",
    "switched",
    "tool",
    "tools",
    "trial",
    "url",
    "verification",
]


def __getattr__(name: str) -> Any:
    room = next((room for room, names in _ROOMS.items() if name in names), None)
    if room is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{room}"), name)
