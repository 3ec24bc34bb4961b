"""002: give ``tools.embedding`` the dimension that the model really makes.

Where the column has another dimension it is set aside, not rewritten: one short transaction whatever the number of
tools. Back: the former column if it is still there, else an empty one of 1024 dimensions, as in the ToolBox guide.
"""

from __future__ import annotations

from yoyo import step

from toolbox_cli.db.drafts import Draft, Plan, nothing
from toolbox_cli.db.migration_steps import execute_planned
from toolbox_cli.db.plans import retire_current
from toolbox_cli.db.state import RegistryState
from toolbox_cli.domain.changes import Loss
from toolbox_cli.domain.models import Role, Target

#: What the ToolBox server's first migration hard-coded.
GUIDE_DIMENSION = 1024

__depends__ = {"001_initial_schema"}


def upgrade(state: RegistryState, target: Target) -> Plan:
    if state.dimension_of(Role.CURRENT) == target.space.dimension:
        return nothing(state)
    if Role.CURRENT in state.generations:
        # Only the mark is missing (a crash, a restored table): 003 is there, and a change is one of generations now.
        return nothing(state)
    return retire_current(state, target)


def downgrade(state: RegistryState) -> Plan:
    draft = Draft(state)
    current, previous = (state.vectors.get(role.column, 0) for role in (Role.CURRENT, Role.PREVIOUS))
    if state.dimension_of(Role.PREVIOUS) == GUIDE_DIMENSION:
        losses = _lost(current, state, Role.CURRENT)
        draft.drop_column(Role.CURRENT, "the embeddings made since go")
        draft.rename_column(Role.PREVIOUS, Role.CURRENT, "the former embeddings are back")
        vectors = {Role.CURRENT.column: previous}
    elif state.dimension_of(Role.CURRENT) == GUIDE_DIMENSION:
        losses = _lost(previous, state, Role.PREVIOUS)
        draft.drop_column(Role.PREVIOUS, "the generation before the last goes")
        vectors = {Role.CURRENT.column: current}
    else:
        losses = _lost(current, state, Role.CURRENT) + _lost(previous, state, Role.PREVIOUS)
        draft.drop_column(Role.PREVIOUS, "the generation before the last goes")
        draft.drop_column(Role.CURRENT, "the embeddings go")
        draft.add_column(Role.CURRENT, GUIDE_DIMENSION, "an empty column as in the ToolBox guide")
        vectors = {Role.CURRENT.column: 0}
    return draft.plan(vectors=vectors, losses=losses)


def _lost(count: int, state: RegistryState, role: Role) -> tuple[Loss, ...]:
    what = f"vectors of {state.dimension_of(role)} dimensions (column {role.column})"
    return (Loss(count=count, what=what),) if count else ()


step(execute_planned, execute_planned)
