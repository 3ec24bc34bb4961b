"""What hangs on a vector column besides its vectors, and how it follows the name ``embedding`` when columns move.

PostgreSQL binds rights, comments, storage settings, views, triggers and publications to the column, not to its name:
after a rename they stay with the retired vectors, silently. What can be carried to the column that takes the name over
is carried in the same transaction; what cannot is named, and stops the change unless the operator forces it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from psycopg import sql
from psycopg.rows import dict_row
from pydantic import Field

from toolbox_cli.db.queries import query
from toolbox_cli.domain.models import Frozen, Role

if TYPE_CHECKING:
    import psycopg

#: The columns that ever move.
MOVING = [name for role in Role for name in (role.column, role.fingerprint_column)]
#: What a view may name and still be given its former text again: these names are there before and after.
_LASTING = {Role.CURRENT.column, Role.CURRENT.fingerprint_column}
_STORAGE = {"p": "PLAIN", "e": "EXTERNAL", "m": "MAIN", "x": "EXTENDED"}
_COMPRESSION = {"p": "pglz", "l": "lz4"}
_ENABLE = {"D": "DISABLE TRIGGER", "R": "ENABLE REPLICA TRIGGER", "A": "ENABLE ALWAYS TRIGGER"}


class ColumnSettings(Frozen):
    """What an operator has set on a column. ``grants`` are (role or None for PUBLIC, privilege, with grant option)."""

    grants: tuple[tuple[str | None, str, bool], ...] = ()
    comment: str | None = None
    storage: str = "e"
    usual_storage: str = "e"
    compression: str = ""
    statistics: int | None = None
    options: tuple[str, ...] = ()
    not_null: bool = False


class Dependent(Frozen):
    """An object that names a moving column.

    ``follow`` are the statements that bind it to the names again after the move, None where PostgreSQL has no way;
    ``same_type`` says that they are refused if the column has got another type.
    """

    description: str
    columns: tuple[str, ...]
    follow: tuple[str, ...] | None = None
    same_type: bool = False

    def follows(self, moved: frozenset[str], *, same_type: bool) -> bool:
        """Whether it can be carried over a move of these columns."""
        lasting = set(self.columns) <= _LASTING and Role.CURRENT.column in moved
        return self.follow is not None and lasting and (same_type or not self.same_type)


class Attachments(Frozen):
    """All that hangs on the moving columns. ``published_whole`` are publications without a list of columns."""

    settings: Mapping[str, ColumnSettings] = Field(default_factory=dict)
    dependents: tuple[Dependent, ...] = ()
    published_whole: tuple[str, ...] = ()

    def naming(self, columns: Collection[str]) -> tuple[str, ...]:
        """What names one of these columns, in words."""
        return tuple(
            f"{dependent.description} (column {column})"
            for dependent in self.dependents
            for column in dependent.columns
            if column in columns
        )


async def read_attachments(connection: psycopg.AsyncConnection) -> Attachments:
    """Read PostgreSQL's catalogue; the table ``tools`` must be there."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(query("attachments", "column_settings"), {"columns": MOVING})
        settings = {row.pop("column"): ColumnSettings(**row) for row in await cursor.fetchall()}
        await cursor.execute(query("attachments", "dependents"), {"columns": MOVING})
        dependents = [await _dependent(cursor, row) for row in await cursor.fetchall()]
        await cursor.execute(query("attachments", "published_whole"))
        published = tuple(row["name"] for row in await cursor.fetchall())
    return Attachments(settings=settings, dependents=tuple(dependents), published_whole=published)


async def _dependent(cursor: psycopg.AsyncCursor[dict[str, Any]], row: dict[str, Any]) -> Dependent:
    columns = tuple(row["columns"])
    reader = {"pg_rewrite": "view", "pg_trigger": "trigger", "pg_publication_rel": "publication"}.get(row["catalogue"])
    found = None
    if reader is not None:
        await cursor.execute(query("attachments", reader), {"oid": row["objid"]})
        found = await cursor.fetchone()
    if found is None:
        return Dependent(description=row["description"].removesuffix(" of table tools"), columns=columns)
    make = {"view": _view, "trigger": _trigger, "publication": _publication}[str(reader)]
    return make(found, columns)


def _view(found: dict[str, Any], columns: tuple[str, ...]) -> Dependent:
    kind = "materialised view" if found["kind"] == "m" else "view"
    follow = None
    if found["kind"] == "v" and found["whole"] and found["ours"]:
        # CREATE OR REPLACE takes the options of the new text, so they are said again.
        options = f" WITH ({', '.join(found['options'])})" if found["options"] else ""
        follow = (f"CREATE OR REPLACE VIEW {found['name']}{options} AS\n{found['definition']}",)
    return Dependent(
        description=f"{kind} {found['name']}", columns=columns, follow=follow, same_type=found["has_vectors"]
    )


def _trigger(found: dict[str, Any], columns: tuple[str, ...]) -> Dependent:
    follow: tuple[str, ...] | None = None
    if not found["bound"]:
        follow = (found["definition"].replace("CREATE TRIGGER", "CREATE OR REPLACE TRIGGER", 1),)
        if found["enabled"] in _ENABLE:
            name = sql.Identifier(found["name"]).as_string()
            follow += (f"ALTER TABLE tools {_ENABLE[found['enabled']]} {name}",)
    return Dependent(description=f"trigger {found['name']}", columns=columns, follow=follow)


def _publication(found: dict[str, Any], columns: tuple[str, ...]) -> Dependent:
    follow = None
    if found["ours"]:
        name = sql.Identifier(found["name"]).as_string()
        listed = ", ".join(sql.Identifier(column).as_string() for column in found["columns"])
        where = f" WHERE {found['filter']}" if found["filter"] else ""
        follow = (
            f"ALTER PUBLICATION {name} DROP TABLE tools",
            f"ALTER PUBLICATION {name} ADD TABLE tools ({listed}){where}",
        )
    return Dependent(description=f"publication {found['name']}", columns=columns, follow=follow)


def settings_statements(wanted: ColumnSettings, found: ColumnSettings, column: str) -> list[tuple[sql.Composed, str]]:
    """What gives a column the settings of another, with the purpose of each: nothing where they are equal."""
    name = sql.Identifier(column)
    alter = sql.SQL("ALTER TABLE tools ALTER COLUMN {} ").format(name)
    made: list[tuple[sql.Composed, str]] = []
    if wanted.comment != found.comment:
        comment = sql.SQL("COMMENT ON COLUMN tools.{} IS {}").format(name, sql.Literal(wanted.comment))
        made.append((comment, "the comment on the column"))
    if wanted.storage != found.storage:
        made.append((alter + sql.SQL(f"SET STORAGE {_STORAGE[wanted.storage]}"), "how its values are stored"))
    if wanted.compression != found.compression:
        method = _COMPRESSION.get(wanted.compression, "default")
        made.append((alter + sql.SQL(f"SET COMPRESSION {method}"), "how its values are compressed"))
    if wanted.statistics != found.statistics:
        number = -1 if wanted.statistics is None else wanted.statistics
        made.append((alter + sql.SQL(f"SET STATISTICS {number}"), "how much is sampled for its statistics"))
    if wanted.options != found.options:
        gone = sorted({option.split("=")[0] for option in found.options} - {o.split("=")[0] for o in wanted.options})
        if wanted.options:
            made.append((alter + sql.SQL(f"SET ({', '.join(wanted.options)})"), "the options of the column"))
        if gone:
            made.append((alter + sql.SQL(f"RESET ({', '.join(gone)})"), "the options of the column"))
    for grant in found.grants:
        if grant not in wanted.grants:
            made.append((_grant("REVOKE", "FROM", grant, name), "rights on the column"))
    for grant in wanted.grants:
        if grant not in found.grants:
            made.append((_grant("GRANT", "TO", grant, name), "rights on the column"))
    return made


def _grant(verb: str, preposition: str, grant: tuple[str | None, str, bool], column: sql.Identifier) -> sql.Composed:
    role, privilege, grantable = grant
    return sql.SQL("{verb} {privilege} ({column}) ON tools {preposition} {role}{option}").format(
        verb=sql.SQL(verb),
        privilege=sql.SQL(privilege),
        column=column,
        preposition=sql.SQL(preposition),
        role=sql.SQL("PUBLIC") if role is None else sql.Identifier(role),
        option=sql.SQL(" WITH GRANT OPTION" if grantable and verb == "GRANT" else ""),
    )
