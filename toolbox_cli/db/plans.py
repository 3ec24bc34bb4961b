"""Changes of the schema as pure functions: state in, statements and next state out.

``--dry-run`` prints the very list that a run executes. Every plan is computed anew from the state as found, so a
command that was killed half-way can simply be run again.
"""

from __future__ import annotations

from dataclasses import replace

from psycopg import sql

from toolbox_cli.db.drafts import Draft, Plan, Statement, nothing
from toolbox_cli.db.state import RegistryState
from toolbox_cli.domain.catalog import canonical_name
from toolbox_cli.domain.changes import Loss
from toolbox_cli.domain.models import DEFAULT_KEY_VARIABLE, EmbeddingSpace, Generation, Role, Target


def retire_current(state: RegistryState, target: Target) -> Plan:
    """Change the dimension (or the model) at once: O(1) whatever the number of tools.

    The column becomes ``embedding_previous`` with all its vectors, a new empty one takes its name. No row is read
    or written. The retired column's index goes, because every later update of a row would have to maintain it; the
    index of the new column is built afterwards, CONCURRENTLY (see ``db.index_builds``), for a build inside this
    transaction would hold the lock for as long as it takes to scan the table.
    """
    current = state.generations.get(Role.CURRENT)
    if target.index_method is None and current is not None:
        # Whoever asked for another index than HNSW, or for none, did so for the registry and not for one model.
        target = target.model_copy(update={"index_method": current.index_method})
    draft = Draft(state)
    losses = vectors_lost(state, Role.PREVIOUS) + vectors_lost(state, Role.BUILDING)
    draft.drop_column(Role.PREVIOUS, "drop the generation before the last")
    draft.drop_column(Role.BUILDING, "drop the generation that was being built")
    draft.drop_indexes(Role.CURRENT, "the retired column needs no index")
    draft.rename_column(Role.CURRENT, Role.PREVIOUS, "keep the vectors for a roll back")
    draft.add_column(Role.CURRENT, target.space.dimension, "the column for the new embeddings, empty")
    if "embedding_generations" in state.tables:
        draft.add_fingerprint(Role.CURRENT, "fingerprints of the new embeddings")
        draft.retire(Role.PREVIOUS, "history: the generation before the last is gone")
        draft.retire(Role.BUILDING, "history: what was being built is gone")
        draft.add(move_role(Role.CURRENT, Role.PREVIOUS), "the current generation becomes the previous one")
        draft.add(insert_generation(Role.CURRENT, target), "record the new generation")
    count = state.vectors.get(Role.CURRENT.column, 0)
    retires = (f"{count} vectors of {_dimensions(state, Role.CURRENT)} (kept for `toolbox rollback`)",) if count else ()
    vectors = {Role.PREVIOUS.column: count, Role.CURRENT.column: 0}
    return draft.plan(vectors=vectors, losses=losses, retires=retires)


def disown_current(state: RegistryState, generation: Generation) -> Plan:
    """The column has another dimension than its generation: somebody altered it by hand, and with it every vector.

    What is in it now was made by nobody knows whom, so it must not be brought back later as this generation.
    """
    found = state.dimension_of(Role.CURRENT) or generation.dimension
    statement = sql.SQL(
        "UPDATE embedding_generations SET model = NULL, canonical_model = NULL, dimension = {}, document_prefix = '',"
        " query_prefix = '', endpoint_url = NULL, api_key_env = NULL WHERE id = {}"
    ).format(sql.Literal(found), sql.Literal(generation.id))
    purpose = f"tools.embedding has {found} dimensions, recorded were {generation.dimension}: nobody's vectors"
    unsigned = {"model": None, "canonical_model": None, "dimension": found, "document_prefix": "", "query_prefix": ""}
    disowned = generation.model_copy(update=unsigned | {"endpoint_url": None, "api_key_env": None})
    after = replace(state, generations={**state.generations, Role.CURRENT: disowned})
    return Plan((Statement(statement, purpose),), after)


def record_current(state: RegistryState, target: Target) -> Plan:
    """Record the current generation where its row is gone; the fingerprints tell which vectors are this target's."""
    draft = Draft(state)
    draft.add_fingerprint(Role.CURRENT, "which text and space each embedding was made from")
    draft.add(insert_generation(Role.CURRENT, target), "record the current generation")
    return draft.plan()


def swap_back(state: RegistryState) -> Plan:
    """Roll back after a change: the previous column is current again, the newer one is set aside as building.

    Setting it aside, not swapping roles, is what makes the command safe to repeat: a second run finds no previous
    generation and ends, where a swap would go forward again.
    """
    draft = Draft(state)
    losses = vectors_lost(state, Role.BUILDING)
    draft.drop_column(Role.BUILDING, "drop the generation that was being built")
    draft.retire(Role.BUILDING, "history: what was being built is gone")
    move_column(draft, Role.CURRENT, Role.BUILDING, "set the newer embeddings aside")
    move_column(draft, Role.PREVIOUS, Role.CURRENT, "bring the former embeddings back")
    draft.add_fingerprint(Role.CURRENT, "fingerprints of the embeddings that are back")
    draft.add(move_role(Role.CURRENT, Role.BUILDING, rolled_back=True), "the newer generation is set aside")
    draft.add(move_role(Role.PREVIOUS, Role.CURRENT), "the former generation is current again")
    moved = {
        Role.BUILDING.column: state.vectors.get(Role.CURRENT.column, 0),
        Role.CURRENT.column: state.vectors.get(Role.PREVIOUS.column, 0),
    }
    return draft.plan(vectors=moved, losses=losses)


def set_aside(state: RegistryState, building: Generation) -> Plan:
    """Build a generation no further, and keep its vectors."""
    statement = sql.SQL("UPDATE embedding_generations SET rolled_back_at = now() WHERE id = {}")
    purpose = "its vectors stay: migrate to it again, or drop it with `toolbox prune`"
    return Plan((Statement(statement.format(sql.Literal(building.id)), purpose),), state)


def exchange(state: RegistryState) -> Plan:
    """The current and the previous generation change places: `toolbox rollback` leads back from either."""
    draft = Draft(state)
    losses = vectors_lost(state, Role.BUILDING)
    draft.drop_column(Role.BUILDING, "drop what is in the way")
    draft.retire(Role.BUILDING, "history: what was in the way is gone")
    # By way of the third role: no two columns, indexes or generations may bear one name at a time.
    for old, new, purpose in (
        (Role.CURRENT, Role.BUILDING, "keep the vectors for a roll back"),
        (Role.PREVIOUS, Role.CURRENT, "bring the former embeddings back"),
        (Role.BUILDING, Role.PREVIOUS, "keep the vectors for a roll back"),
    ):
        move_column(draft, old, new, purpose)
        draft.add(move_role(old, new), "the former generation is current again, the present one is the previous one")
    draft.add_fingerprint(Role.CURRENT, "fingerprints of the embeddings that are back")
    moved = {
        Role.PREVIOUS.column: state.vectors.get(Role.CURRENT.column, 0),
        Role.CURRENT.column: state.vectors.get(Role.PREVIOUS.column, 0),
    }
    return draft.plan(vectors=moved, losses=losses)


def bring_forward(state: RegistryState) -> Plan:
    """Make the building generation current; what was current becomes the previous one."""
    draft = Draft(state)
    losses = vectors_lost(state, Role.PREVIOUS)
    draft.drop_column(Role.PREVIOUS, "drop the generation before the last")
    draft.retire(Role.PREVIOUS, "history: the generation before the last is gone")
    move_column(draft, Role.CURRENT, Role.PREVIOUS, "keep the vectors for a roll back")
    move_column(draft, Role.BUILDING, Role.CURRENT, "the built embeddings become current")
    draft.add_fingerprint(Role.CURRENT, "fingerprints of the embeddings that are current now")
    draft.add(move_role(Role.CURRENT, Role.PREVIOUS), "the current generation becomes the previous one")
    draft.add(move_role(Role.BUILDING, Role.CURRENT), "the built generation becomes current")
    moved = {
        Role.PREVIOUS.column: state.vectors.get(Role.CURRENT.column, 0),
        Role.CURRENT.column: state.vectors.get(Role.BUILDING.column, 0),
    }
    return draft.plan(vectors=moved, losses=losses)


def signature(space: EmbeddingSpace) -> tuple[object, ...]:
    """What makes two embedding spaces one: the query prefix is left out, for it is in no stored vector."""
    model = canonical_name(space.model) if space.model else None
    return (model, space.dimension, space.document_prefix)


def holds(state: RegistryState, role: Role, space: EmbeddingSpace) -> bool:
    """Whether the vectors in a role are of a space, by record and by column: somebody may have altered the column."""
    found = state.generations.get(role)
    if found is None or signature(found.space) != signature(space):
        return False
    return state.dimension_of(role) == space.dimension


def update_service(state: RegistryState, generation: Generation, target: Target) -> Plan:
    """The same space from another address, under another spelling, or with another index: only the record changes."""
    wanted: dict[str, object] = {
        "model": target.space.model,
        "query_prefix": target.space.query_prefix,
        "endpoint_url": target.endpoint_url,
    }
    if target.api_key_env is not None:
        wanted["api_key_env"] = target.api_key_env
    if target.index_method is not None:
        wanted["index_method"] = target.index_method
    changed = {name: value for name, value in wanted.items() if getattr(generation, name) != value}
    if not changed:
        return nothing(state)
    statement = sql.SQL("UPDATE embedding_generations SET {} WHERE id = {}").format(
        sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(value)) for name, value in changed.items()
        ),
        sql.Literal(generation.id),
    )
    return Plan((Statement(statement, f"record {', '.join(changed)}"),), state)


def drop_role(state: RegistryState, role: Role, purpose: str) -> Plan:
    """Drop a retired or abandoned column, with its fingerprints and indexes."""
    draft = Draft(state)
    draft.drop_column(role, purpose)
    draft.retire(role, "history: this generation is gone")
    vectors = {column: count for column, count in state.vectors.items() if column != role.column}
    return draft.plan(vectors=vectors, losses=vectors_lost(state, role))


def move_column(draft: Draft, old: Role, new: Role, purpose: str) -> None:
    draft.rename_indexes(old, new, purpose)
    draft.rename_column(old, new, purpose)


def vectors_lost(state: RegistryState, role: Role) -> tuple[Loss, ...]:
    count = state.vectors.get(role.column, 0)
    if not count:
        return ()
    generation = state.generations.get(role)
    model = generation.model if generation and generation.model else "an unknown model"
    return (Loss(count=count, what=f"vectors of {_dimensions(state, role)} by {model} (column {role.column})"),)


def _dimensions(state: RegistryState, role: Role) -> str:
    return f"{state.dimension_of(role) or '?'} dimensions"


def move_role(old: Role, new: Role, *, rolled_back: bool = False) -> sql.Composed:
    marks = sql.SQL("")
    if new is Role.CURRENT:
        marks = sql.SQL(", activated_at = now(), rolled_back_at = NULL")
    elif new is Role.BUILDING:
        marks = sql.SQL(", rolled_back_at = now()") if rolled_back else sql.SQL(", rolled_back_at = NULL")
    return sql.SQL("UPDATE embedding_generations SET role = {new}{marks} WHERE role = {old}").format(
        new=sql.Literal(new.value), marks=marks, old=sql.Literal(old.value)
    )


def insert_generation(role: Role, target: Target, *, known: bool = True) -> sql.Composed:
    """Record a generation, unless the role is taken. ``known=False`` is for vectors that nobody signed."""
    space = target.space
    values: dict[str, object] = {
        "role": role.value,
        "model": space.model if known else None,
        "canonical_model": canonical_name(space.model) if known and space.model else None,
        "dimension": space.dimension,
        "document_prefix": space.document_prefix if known else "",
        "query_prefix": space.query_prefix if known else "",
        "template_version": space.template_version,
        "endpoint_url": target.endpoint_url if known else None,
        "api_key_env": (target.api_key_env or DEFAULT_KEY_VARIABLE) if known else None,
        "index_method": target.index_method or "hnsw",
    }
    activated = sql.SQL("now()") if role is Role.CURRENT else sql.SQL("NULL")
    return sql.SQL(
        "INSERT INTO embedding_generations ({names}, activated_at)\nSELECT {values}, {activated}\n"
        "WHERE NOT EXISTS (SELECT FROM embedding_generations WHERE role = {role})"
    ).format(
        names=sql.SQL(", ").join(sql.Identifier(name) for name in values),
        values=sql.SQL(", ").join(sql.Literal(value) for value in values.values()),
        activated=activated,
        role=sql.Literal(role.value),
    )
