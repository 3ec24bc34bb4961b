"""What a yoyo migration of ours executes: the plan that was computed, shown and agreed to beforehand."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

from toolbox_cli.domain.errors import StateError

if TYPE_CHECKING:
    import psycopg

    from toolbox_cli.db.drafts import Plan

PLANNED: ContextVar[Plan | None] = ContextVar("toolbox_planned_migration", default=None)


def execute_planned(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    """Execute the planned statements inside yoyo's transaction.

    Raises StateError when there is no plan: the migrations need a target dimension that yoyo's own command line
    has no way to give.
    """
    plan = PLANNED.get()
    if plan is None:
        raise StateError(
            "these migrations need a plan and cannot be applied by `yoyo` itself",
            hint="Run `toolbox migrate` (or `toolbox rollback --to …`).",
        )
    if plan.statements:
        connection.execute(plan.script())
