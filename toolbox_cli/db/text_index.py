"""The full-text index: the words of a tool's text, split as they are for the embedding.

It is an index on an expression, so PostgreSQL keeps it fresh with every insert and edit of the server's, and nothing
has to be refreshed. How rare a word is is counted when a question is asked: the tools that have it are looked up
anyway. Measured against the alternative, a table of (lexeme, document frequency) made by ``ts_stat``: that took 4.4 s
for 100,000 tools and is out of date a moment later, where counting costs a question 3 ms at 10,000 tools and 27 ms at
100,000.

An update of the vector columns touches none of the columns in the expression, so it can still be HOT.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from toolbox_cli.db.drafts import Statement
from toolbox_cli.db.indexes import drop_index

if TYPE_CHECKING:
    from toolbox_cli.db.state import RegistryState

TEXT_INDEX = "ix_tools_text"
#: The configuration that stems and drops stop words; a question is read by the same.
CONFIGURATION = "pg_catalog.english"
#: Characters of a text that are indexed. A tsvector holds at most 1 MB (PostgreSQL, "Limitations" of text search), and
#: beyond it the server's own insert would fail: four bytes a character and as much again for positions stay below.
MOST_CHARACTERS = 50_000


def lexemes(*alias: str) -> sql.Composed:
    """The indexed expression; a query must repeat it. ``alias`` is the table's in the query, none in the index."""
    name, description, schema = (sql.Identifier(*alias, column) for column in ("name", "description", "input_schema"))
    return sql.SQL(
        "to_tsvector({configuration}, left(toolbox_tool_text({name}::text, {description}, {schema}), {most}))"
    ).format(
        configuration=sql.Literal(CONFIGURATION),
        name=name,
        description=description,
        schema=schema,
        most=sql.Literal(MOST_CHARACTERS),
    )


def text_index_statements(state: RegistryState) -> tuple[Statement, ...]:
    """Build the index where it is missing; drop what an interrupted build left."""
    if state.text_index:
        return ()
    statements: tuple[Statement, ...] = ()
    if state.text_index is False:
        statements = (Statement(drop_index(TEXT_INDEX, concurrently=True), "drop the text index: it is invalid"),)
    build = sql.SQL("CREATE INDEX CONCURRENTLY {} ON tools USING gin ({})").format(
        sql.Identifier(TEXT_INDEX), lexemes()
    )
    return (*statements, Statement(build, "build the text index on names, descriptions and parameters", TEXT_INDEX))
