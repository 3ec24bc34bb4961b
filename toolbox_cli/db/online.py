"""Plans of a change that leaves search as it is: a shadow column is added, filled, and takes the name over at the end.

The change log of the cutover: while the last tools are caught up, a trigger writes down which tools the server touches,
so that the check under the lock looks at those alone, however many tools there are. A trigger and not a scan, because
the scan would hold everybody up for as long as it takes to read the table.
"""

from __future__ import annotations

from dataclasses import replace

import psycopg
from psycopg import sql

from toolbox_cli.db.drafts import Draft, Plan, Statement, nothing
from toolbox_cli.db.embeddings import columns_of, space_of
from toolbox_cli.db.plans import (
    holds,
    insert_generation,
    move_column,
    move_role,
    signature,
    update_service,
    vectors_lost,
)
from toolbox_cli.db.queries import query
from toolbox_cli.db.state import RegistryState
from toolbox_cli.domain.errors import StateError
from toolbox_cli.domain.models import EmbeddingSpace, Generation, Role, Target

_LOG_TABLE = "CREATE TABLE IF NOT EXISTS {schema}.embedding_changes (tool_id bigint NOT NULL)"
# With its owner's rights: the server's role may not be allowed to write to this table, and need not be.
_LOG_FUNCTION = """
CREATE OR REPLACE FUNCTION {schema}.toolbox_note_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
BEGIN
    INSERT INTO embedding_changes (tool_id) VALUES (NEW.id);
    RETURN NULL;
END
$$
"""
_LOG_TRIGGER = """
CREATE OR REPLACE TRIGGER toolbox_note_change
AFTER INSERT OR UPDATE OF name, description, input_schema, is_active ON tools
FOR EACH ROW EXECUTE FUNCTION {schema}.toolbox_note_change()
"""
# Also what a replica's apply worker writes: such a session fires no ordinary trigger.
_LOG_ALWAYS = "ALTER TABLE tools ENABLE ALWAYS TRIGGER toolbox_note_change"
_WAYS_TO_READ_IT_ALL = ("seqscan", "hashjoin", "mergejoin", "bitmapscan")
#: Raised under the lock when a tool has changed since it was caught up.
STALE_SQLSTATE = "TBX01"


def begin_building(state: RegistryState, target: Target) -> Plan:
    """Add the shadow column for a target, or take up one that is there.

    Raises StateError when another generation is being built already.
    """
    wanted = signature(target.space)
    building, previous = state.generations.get(Role.BUILDING), state.generations.get(Role.PREVIOUS)
    if building is not None and signature(building.space) == wanted:
        return _take_up(state, building, target)
    if building is not None and building.rolled_back_at is None:
        raise StateError(
            f"a new generation is being built ({building.model}, {building.dimension} dimensions)",
            hint="End that first: `toolbox cutover`, or `toolbox rollback` to abandon it.",
        )
    draft = Draft(state)
    losses = vectors_lost(state, Role.BUILDING)
    draft.drop_column(Role.BUILDING, "drop the embeddings that were set aside")
    draft.retire(Role.BUILDING, "history: what was set aside is gone")
    vectors = dict(state.vectors) | {Role.BUILDING.column: 0}
    if previous is not None and holds(state, Role.PREVIOUS, target.space):
        move_column(draft, Role.PREVIOUS, Role.BUILDING, "built on what is there: nothing is paid for twice")
        draft.add(move_role(Role.PREVIOUS, Role.BUILDING), "the former generation is being built again")
        vectors = dict(state.vectors) | {Role.BUILDING.column: state.vectors.get(Role.PREVIOUS.column, 0)}
        vectors.pop(Role.PREVIOUS.column, None)
        plan = draft.plan(vectors=vectors, losses=losses)
        return plan.then(update_service(plan.after, previous, target))
    current = state.generations.get(Role.CURRENT)
    if target.index_method is None and current is not None:
        target = target.model_copy(update={"index_method": current.index_method})
    draft.add_column(Role.BUILDING, target.space.dimension, "a second column for the new embeddings, empty")
    draft.add_fingerprint(Role.BUILDING, "fingerprints of the new embeddings")
    draft.add(insert_generation(Role.BUILDING, target), "record the generation that is being built")
    plan = draft.plan(vectors=vectors, losses=losses)
    kept = vectors_lost(state, Role.PREVIOUS)
    if not kept:
        return plan
    note = f"the cutover will drop what is kept of the last change: {kept[0].phrase}; `toolbox prune` does so now"
    return replace(plan, notes=(*plan.notes, note))


def _take_up(state: RegistryState, building: Generation, target: Target) -> Plan:
    plan = nothing(state)
    if building.rolled_back_at is not None:
        resume = sql.SQL("UPDATE embedding_generations SET rolled_back_at = NULL WHERE id = {}")
        statement = Statement(resume.format(sql.Literal(building.id)), "what was set aside is being built again")
        plan = Plan((statement,), state)
    return plan.then(update_service(plan.after, building, target))


def adoption_target(target: Target, dimension: int) -> Target:
    """What the migrations lead to when the column is to stay as it is: vectors that nobody has signed."""
    return target.model_copy(update={"space": EmbeddingSpace(model=None, dimension=dimension)})


def keep_log(state: RegistryState) -> Plan:
    """Begin to write down which tools the server touches."""
    schema = sql.Identifier(state.schema)
    statements = (
        Statement(sql.SQL(_LOG_TABLE).format(schema=schema), "where changed tools are written down"),
        Statement(sql.SQL(_LOG_FUNCTION).format(schema=schema), "write a changed tool down"),
        Statement(sql.SQL(_LOG_TRIGGER).format(schema=schema), "watch what the server changes"),
        Statement(sql.SQL(_LOG_ALWAYS), "watch it whoever writes"),
    )
    return Plan(statements, state)


def end_log(state: RegistryState) -> Plan:
    """Write nothing down any more."""
    statements = (
        Statement(sql.SQL("DROP TRIGGER IF EXISTS toolbox_note_change ON tools"), "watch no changes any more"),
        Statement(sql.SQL("DROP FUNCTION IF EXISTS toolbox_note_change()"), "watch no changes any more"),
        Statement(sql.SQL("DROP TABLE IF EXISTS embedding_changes"), "watch no changes any more"),
    )
    return Plan(statements, state, locks=True)


def pause_log(state: RegistryState) -> Plan:
    """Write nothing down any more, without the lock that readers hold off: what is left is cleared up later."""
    pause = sql.SQL("ALTER TABLE tools DISABLE TRIGGER toolbox_note_change")
    return Plan((Statement(pause, "watch no changes any more"),), state)


def refuse_if_stale(connection: psycopg.AsyncConnection, generation: Generation) -> sql.Composed:
    """A statement that fails with STALE_SQLSTATE if a tool that was written down has no fresh vector.

    What the service has refused is no reason: whether those may be missing was decided before.
    """
    statement = query("online", "stale_among_changed", **columns_of(generation))
    # A DO block takes no parameters, so the client puts them into the text.
    found = psycopg.AsyncClientCursor(connection).mogrify(statement, space_of(generation)).strip().rstrip(";")
    # Nobody has counted the log yet: left to itself the planner may read the whole table rather than look up a few.
    by_index = "".join(f"  PERFORM set_config('enable_{way}', 'off', true);\n" for way in _WAYS_TO_READ_IT_ALL)
    body = (
        f"BEGIN\n{by_index}  IF EXISTS ({found}) THEN\n"
        f"    RAISE EXCEPTION 'tools have changed meanwhile' USING ERRCODE = '{STALE_SQLSTATE}';\n  END IF;\nEND"
    )
    return sql.SQL("DO {}").format(sql.Literal(body))
