"""Changes of the schema as pure functions: state in, statements and next state out.

``--dry-run`` prints the very list that a run executes. Every plan is computed anew from the state as found, so a
command that was killed half-way can simply be run again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from psycopg import sql

from toolbox_cli.db.indexes import drop_index
from toolbox_cli.db.state import RegistryState
from toolbox_cli.domain.catalog import canonical_name
from toolbox_cli.domain.models import EmbeddingSpace, Generation, Role, Target, VectorIndex


@dataclass(frozen=True)
class Statement:
    """One SQL statement and, in a few words, what it is for."""

    sql: sql.SQL | sql.Composed
    purpose: str
    #: The name of the index that this builds: what a failed build of it leaves behind.
    replaces: str | None = None

    def text(self) -> str:
        """The statement as PostgreSQL will see it, ending in a semicolon."""
        return self.sql.as_string(None).strip().rstrip(";") + ";"


@dataclass(frozen=True)
class Plan:
    """What to execute, in one transaction, and the state that it leads to."""

    statements: tuple[Statement, ...]
    after: RegistryState
    #: What is lost for good, one phrase each; empty when everything can be brought back.
    losses: tuple[str, ...] = ()
    #: What is set aside but can be brought back, one phrase each.
    retires: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    #: Columns that get another name or go: views go on reading them, or are in the way.
    moves: frozenset[str] = frozenset()

    def then(self, following: Plan) -> Plan:
        return Plan(
            statements=self.statements + following.statements,
            after=following.after,
            losses=self.losses + following.losses,
            retires=self.retires + following.retires,
            notes=self.notes + following.notes,
            moves=self.moves | following.moves,
        )


def nothing(state: RegistryState) -> Plan:
    return Plan((), state)


@dataclass
class Draft:
    """Collects the statements of a plan while the columns move."""

    state: RegistryState
    statements: list[Statement] = field(default_factory=list)
    columns: dict[str, str] = field(init=False)
    indexes: dict[str, VectorIndex] = field(init=False)
    moves: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.columns = dict(self.state.columns)
        self.indexes = {index.name: index for index in self.state.indexes}

    def add(self, statement: sql.SQL | sql.Composed, purpose: str) -> None:
        self.statements.append(Statement(statement, purpose))

    def drop_indexes(self, role: Role, purpose: str) -> None:
        for index in [index for index in self.indexes.values() if index.column == role.column]:
            self.add(drop_index(index.name), purpose)
            del self.indexes[index.name]

    def drop_column(self, role: Role, purpose: str) -> None:
        self.drop_indexes(role, purpose)
        for column in (role.column, role.fingerprint_column):
            if column in self.columns:
                statement = sql.SQL("ALTER TABLE tools DROP COLUMN {}").format(sql.Identifier(column))
                self.add(statement, purpose)
                self.moves.add(column)
                del self.columns[column]

    def rename_column(self, old: Role, new: Role, purpose: str) -> None:
        for source, target in (
            (old.column, new.column),
            (old.fingerprint_column, new.fingerprint_column),
        ):
            if source in self.columns:
                rename = sql.SQL("ALTER TABLE tools RENAME COLUMN {} TO {}")
                self.add(rename.format(sql.Identifier(source), sql.Identifier(target)), purpose)
                self.moves.add(source)
                self.columns[target] = self.columns.pop(source)

    def rename_indexes(self, old: Role, new: Role, purpose: str) -> None:
        found = [index for index in self.indexes.values() if index.column == old.column]
        # The name is one, an operator may have made several: the one that bears the name moves, or else the first.
        found.sort(key=lambda index: index.name != old.index_name)
        for index in found[1:]:
            self.add(drop_index(index.name), "one vector index is enough")
            del self.indexes[index.name]
        for index in found[:1]:
            rename = sql.SQL("ALTER INDEX {} RENAME TO {}")
            self.add(rename.format(sql.Identifier(index.name), sql.Identifier(new.index_name)), purpose)
            del self.indexes[index.name]
            moved = index.model_copy(update={"name": new.index_name, "column": new.column})
            self.indexes[new.index_name] = moved

    def retire(self, role: Role, purpose: str) -> None:
        """Close the history of a role, if anything is in it.

        A column tells of a generation that a migration before this plan, not executed yet, is going to record.
        """
        if role in self.state.generations or role.column in self.state.columns:
            self.add(_retire_role(role), purpose)

    def add_column(self, role: Role, dimension: int, purpose: str) -> None:
        vector = sql.SQL("ALTER TABLE tools ADD COLUMN {} vector({})")
        self.add(vector.format(sql.Identifier(role.column), sql.Literal(dimension)), purpose)
        self.columns[role.column] = f"vector({dimension})"

    def add_fingerprint(self, role: Role, purpose: str) -> None:
        if role.fingerprint_column not in self.columns:
            fingerprint = sql.SQL("ALTER TABLE tools ADD COLUMN {} bytea")
            self.add(fingerprint.format(sql.Identifier(role.fingerprint_column)), purpose)
            self.columns[role.fingerprint_column] = "bytea"

    def finish(self, *, vectors: Mapping[str, int] | None = None) -> RegistryState:
        return replace(
            self.state,
            columns=self.columns,
            indexes=tuple(self.indexes.values()),
            vectors=self.state.vectors if vectors is None else vectors,
        )

    def plan(
        self, *, vectors: Mapping[str, int] | None = None, losses: tuple[str, ...] = (), retires: tuple[str, ...] = ()
    ) -> Plan:
        """What was collected."""
        after = self.finish(vectors=vectors)
        return Plan(tuple(self.statements), after, losses=losses, retires=retires, moves=frozenset(self.moves))


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
    losses = _losses(state, Role.PREVIOUS) + _losses(state, Role.BUILDING)
    draft.drop_column(Role.PREVIOUS, "drop the generation before the last")
    draft.drop_column(Role.BUILDING, "drop the generation that was being built")
    draft.drop_indexes(Role.CURRENT, "the retired column needs no index")
    draft.rename_column(Role.CURRENT, Role.PREVIOUS, "keep the vectors for a roll back")
    draft.add_column(Role.CURRENT, target.space.dimension, "the column for the new embeddings, empty")
    if "embedding_generations" in state.tables:
        draft.add_fingerprint(Role.CURRENT, "fingerprints of the new embeddings")
        draft.retire(Role.PREVIOUS, "history: the generation before the last is gone")
        draft.retire(Role.BUILDING, "history: what was being built is gone")
        draft.add(_move_role(Role.CURRENT, Role.PREVIOUS), "the current generation becomes the previous one")
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
    losses = _losses(state, Role.BUILDING)
    draft.drop_column(Role.BUILDING, "drop the generation that was being built")
    draft.retire(Role.BUILDING, "history: what was being built is gone")
    _move(draft, Role.CURRENT, Role.BUILDING, "set the newer embeddings aside")
    _move(draft, Role.PREVIOUS, Role.CURRENT, "bring the former embeddings back")
    draft.add_fingerprint(Role.CURRENT, "fingerprints of the embeddings that are back")
    draft.add(_move_role(Role.CURRENT, Role.BUILDING, rolled_back=True), "the newer generation is set aside")
    draft.add(_move_role(Role.PREVIOUS, Role.CURRENT), "the former generation is current again")
    moved = {
        Role.BUILDING.column: state.vectors.get(Role.CURRENT.column, 0),
        Role.CURRENT.column: state.vectors.get(Role.PREVIOUS.column, 0),
    }
    return draft.plan(vectors=moved, losses=losses)


def bring_forward(state: RegistryState) -> Plan:
    """Make the building generation current; what was current becomes the previous one."""
    draft = Draft(state)
    losses = _losses(state, Role.PREVIOUS)
    draft.drop_column(Role.PREVIOUS, "drop the generation before the last")
    draft.retire(Role.PREVIOUS, "history: the generation before the last is gone")
    _move(draft, Role.CURRENT, Role.PREVIOUS, "keep the vectors for a roll back")
    _move(draft, Role.BUILDING, Role.CURRENT, "the built embeddings become current")
    draft.add_fingerprint(Role.CURRENT, "fingerprints of the embeddings that are current now")
    draft.add(_move_role(Role.CURRENT, Role.PREVIOUS), "the current generation becomes the previous one")
    draft.add(_move_role(Role.BUILDING, Role.CURRENT), "the built generation becomes current")
    moved = {
        Role.PREVIOUS.column: state.vectors.get(Role.CURRENT.column, 0),
        Role.CURRENT.column: state.vectors.get(Role.BUILDING.column, 0),
    }
    return draft.plan(vectors=moved, losses=losses)


def signature(space: EmbeddingSpace) -> tuple[object, ...]:
    """What makes two embedding spaces one: the query prefix is left out, for it is in no stored vector."""
    model = canonical_name(space.model) if space.model else None
    return (model, space.dimension, space.document_prefix)


def update_service(state: RegistryState, generation: Generation, target: Target) -> Plan:
    """The same space from another address, under another spelling, or with another index: only the record changes."""
    wanted: dict[str, object] = {
        "model": target.space.model,
        "query_prefix": target.space.query_prefix,
        "endpoint_url": target.endpoint_url,
    }
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
    return draft.plan(vectors=vectors, losses=_losses(state, role))


def _move(draft: Draft, old: Role, new: Role, purpose: str) -> None:
    draft.rename_indexes(old, new, purpose)
    draft.rename_column(old, new, purpose)


def _losses(state: RegistryState, role: Role) -> tuple[str, ...]:
    count = state.vectors.get(role.column, 0)
    if not count:
        return ()
    generation = state.generations.get(role)
    model = generation.model if generation and generation.model else "an unknown model"
    return (f"{count} vectors of {_dimensions(state, role)} by {model} (column {role.column})",)


def _dimensions(state: RegistryState, role: Role) -> str:
    return f"{state.dimension_of(role) or '?'} dimensions"


def _retire_role(role: Role) -> sql.Composed:
    return sql.SQL("UPDATE embedding_generations SET role = 'retired', retired_at = now() WHERE role = {}").format(
        sql.Literal(role.value)
    )


def _move_role(old: Role, new: Role, *, rolled_back: bool = False) -> sql.Composed:
    marks = sql.SQL("")
    if new is Role.CURRENT:
        marks = sql.SQL(", activated_at = now(), rolled_back_at = NULL")
    elif rolled_back:
        marks = sql.SQL(", rolled_back_at = now()")
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
        "api_key_env": target.api_key_env if known else None,
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
