"""What a plan is made of: statements, the state that they lead to, and a draft that collects them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from psycopg import sql

from toolbox_cli.db.attachments import ColumnSettings, settings_statements
from toolbox_cli.db.indexes import drop_index
from toolbox_cli.db.state import RegistryState
from toolbox_cli.domain.changes import Loss
from toolbox_cli.domain.models import Role, VectorIndex


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
    #: What is lost for good; empty when everything can be brought back.
    losses: tuple[Loss, ...] = ()
    #: What is set aside but can be brought back, one phrase each.
    retires: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    #: What names a column that moves or goes, and cannot be carried over.
    hindrances: tuple[str, ...] = ()
    #: Whether the table ``tools`` itself is changed: its lock is then taken first, before anything else is held.
    locks: bool = False

    def script(self, before: sql.Composable | None = None) -> sql.Composed:
        """All of it as one text, to be sent at once: the table's lock is held for no round trip.

        ``before`` comes after the lock and before the changes. The lock is taken first, so that nothing is held while
        it is waited for.
        """
        texts: list[sql.Composable] = [sql.SQL("LOCK TABLE tools IN ACCESS EXCLUSIVE MODE")] if self.locks else []
        texts += [before] if before is not None else []
        return sql.SQL(";\n").join(texts + [statement.sql for statement in self.statements])

    def then(self, following: Plan) -> Plan:
        return Plan(
            statements=self.statements + following.statements,
            after=following.after,
            losses=self.losses + following.losses,
            retires=self.retires + following.retires,
            notes=self.notes + following.notes,
            hindrances=self.hindrances + following.hindrances,
            locks=self.locks or following.locks,
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
    #: Columns that get another name, or go.
    moves: set[str] = field(default_factory=set)
    #: The columns that are new under their names, and what they were called before: None for one that was added.
    origins: dict[str, str | None] = field(default_factory=dict)

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
                self.origins.pop(column, None)
                del self.columns[column]

    def rename_column(self, old: Role, new: Role, purpose: str) -> None:
        for source, target in (
            (old.column, new.column),
            (old.fingerprint_column, new.fingerprint_column),
        ):
            if source in self.columns:
                if source == Role.CURRENT.column and self._settings(source).not_null:
                    # The server gives a vector to the column of this name only: retired, it must take nothing.
                    free = sql.SQL("ALTER TABLE tools ALTER COLUMN {} DROP NOT NULL")
                    self.add(free.format(sql.Identifier(source)), "a retired column is left empty by the server")
                rename = sql.SQL("ALTER TABLE tools RENAME COLUMN {} TO {}")
                self.add(rename.format(sql.Identifier(source), sql.Identifier(target)), purpose)
                self.moves.add(source)
                self.columns[target] = self.columns.pop(source)
                self.origins[target] = self.origins.pop(source, source)

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
        self.origins[role.column] = None

    def add_fingerprint(self, role: Role, purpose: str) -> None:
        if role.fingerprint_column not in self.columns:
            fingerprint = sql.SQL("ALTER TABLE tools ADD COLUMN {} bytea")
            self.add(fingerprint.format(sql.Identifier(role.fingerprint_column)), purpose)
            self.columns[role.fingerprint_column] = "bytea"
            self.origins[role.fingerprint_column] = None

    def finish(self, *, vectors: Mapping[str, int] | None = None) -> RegistryState:
        return replace(
            self.state,
            columns=self.columns,
            indexes=tuple(self.indexes.values()),
            vectors=self.state.vectors if vectors is None else vectors,
        )

    def plan(
        self, *, vectors: Mapping[str, int] | None = None, losses: tuple[Loss, ...] = (), retires: tuple[str, ...] = ()
    ) -> Plan:
        """What was collected, and what has to follow the columns that have moved."""
        hindrances = self._carry_over()
        return Plan(
            tuple(self.statements),
            self.finish(vectors=vectors),
            losses=losses,
            retires=retires,
            notes=self._notes(),
            hindrances=hindrances,
            locks=bool(self.moves or self.origins),
        )

    def _settings(self, column: str) -> ColumnSettings:
        return self.state.attachments.settings.get(column, ColumnSettings())

    def _carry_over(self) -> tuple[str, ...]:
        """Rights, comments, views … stay with the name; returns what cannot."""
        hindrances: list[str] = []
        for column in (Role.CURRENT.column, Role.CURRENT.fingerprint_column):
            if column not in self.moves or column not in self.origins:
                continue
            wanted, origin = self._settings(column), self.origins[column]
            found = self._settings(origin) if origin else _fresh(wanted)
            for statement, purpose in settings_statements(wanted, found, column):
                self.add(statement, f"carried over: {purpose}")
            if wanted.not_null:
                hindrances.append(f"the NOT NULL of column {column}")
        current = Role.CURRENT.column
        same_type = self.columns.get(current) == self.state.columns.get(current)
        moves = frozenset(self.moves)
        for dependent in self.state.attachments.dependents:
            named = sorted(moves.intersection(dependent.columns))
            if not named:
                continue
            if dependent.follow is not None and dependent.follows(moves, same_type=same_type):
                for text in dependent.follow:
                    self.add(sql.SQL(text), f"carried over: {dependent.description}")
            else:
                hindrances += [f"{dependent.description} (column {column})" for column in named]
        return tuple(hindrances)

    def _notes(self) -> tuple[str, ...]:
        added = [column for column, origin in self.origins.items() if origin is None]
        if not added or not self.state.attachments.published_whole:
            return ()
        names = ", ".join(self.state.attachments.published_whole)
        return (
            f"publication {names} replicates the whole table: a subscriber that lacks {', '.join(added)} stops applying"
            " changes, so add the columns there first",
        )


def _fresh(like: ColumnSettings) -> ColumnSettings:
    """The settings of a column that was just added, of the same type."""
    return ColumnSettings(storage=like.usual_storage, usual_storage=like.usual_storage)


def _retire_role(role: Role) -> sql.Composed:
    return sql.SQL("UPDATE embedding_generations SET role = 'retired', retired_at = now() WHERE role = {}").format(
        sql.Literal(role.value)
    )
