"""What the operator sees: results on stdout, everything else on stderr. The only package that imports rich."""

from toolbox_cli.cli.render.checks import cutover, verification
from toolbox_cli.cli.render.comparison import comparison
from toolbox_cli.cli.render.embeddings import models, reindex, reindex_plan, trial
from toolbox_cli.cli.render.html_report import check_report
from toolbox_cli.cli.render.output import progress
from toolbox_cli.cli.render.registry import embedded, outline, sql, status, url
from toolbox_cli.cli.render.searching import evaluation, search
from toolbox_cli.cli.render.tools import exported, imported, switched, tool, tools

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
