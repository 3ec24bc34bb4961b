"""001: the tables of the ToolBox server, as its own Alembic revision 001 makes them.

The one difference is the point of this project: ``embedding`` gets the chosen dimension instead of a hard-coded
1024. An existing registry (Alembic's, or one half-made by a crash) is adopted as it stands; ``alembic_version`` is
never touched. ``fillfactor`` leaves room on every page, so that writing an embedding is a HOT update, which does not
re-insert the row into the table's other indexes.
"""

from __future__ import annotations

from dataclasses import replace

from psycopg import sql
from yoyo import step

from toolbox_cli.db.drafts import Plan, Statement
from toolbox_cli.db.indexes import create_index, expected_index
from toolbox_cli.db.migration_steps import execute_planned
from toolbox_cli.db.state import REQUIRED_COLUMNS, TABLE_COMMENT, RegistryState
from toolbox_cli.domain.changes import Loss
from toolbox_cli.domain.models import Role, Target, VectorIndex

TOOLS = """
CREATE TABLE tools (
    id                  serial PRIMARY KEY,
    name                varchar(255) NOT NULL UNIQUE,
    description         text         NOT NULL,
    category            varchar(100) NOT NULL DEFAULT 'general',
    tags                json         NOT NULL DEFAULT '[]',
    input_schema        json         NOT NULL DEFAULT '{{}}',
    output_schema       json,
    implementation_type varchar(50)  NOT NULL DEFAULT 'external',
    implementation_code text,
    embedding           vector({dimension}),
    is_active           boolean      NOT NULL DEFAULT true,
    version             varchar(50)  NOT NULL DEFAULT '1.0.0',
    created_at          timestamp    NOT NULL DEFAULT (now() AT TIME ZONE 'utc'),
    updated_at          timestamp    NOT NULL DEFAULT (now() AT TIME ZONE 'utc'),
    metadata            json
) WITH (fillfactor = 50)
"""

TOOL_INDEXES = (
    "CREATE UNIQUE INDEX ix_tools_name ON tools (name)",
    "CREATE INDEX ix_tools_category ON tools (category)",
    "CREATE INDEX ix_tools_is_active ON tools (is_active)",
    "CREATE INDEX ix_tools_active_category ON tools (is_active, category)",
    "CREATE INDEX ix_tools_tags ON tools USING gin ((tags::jsonb))",
)

EXECUTIONS = """
CREATE TABLE tool_executions (
    id                serial PRIMARY KEY,
    tool_id           integer      NOT NULL REFERENCES tools (id) ON DELETE CASCADE,
    tool_name         varchar(255) NOT NULL,
    input_data        json         NOT NULL,
    output_data       json,
    status            varchar(20)  NOT NULL,
    error_message     text,
    execution_time_ms integer,
    started_at        timestamp    NOT NULL DEFAULT (now() AT TIME ZONE 'utc'),
    completed_at      timestamp,
    metadata          json
)
"""

EXECUTION_INDEXES = (
    "CREATE INDEX ix_executions_tool_id ON tool_executions (tool_id)",
    "CREATE INDEX ix_executions_tool_name ON tool_executions (tool_name)",
    "CREATE INDEX ix_executions_status ON tool_executions (status)",
    "CREATE INDEX ix_executions_started_at ON tool_executions (started_at)",
    "CREATE INDEX ix_executions_tool_status ON tool_executions (tool_id, status)",
    "CREATE INDEX ix_executions_tool_time ON tool_executions (tool_name, started_at)",
)


def upgrade(state: RegistryState, target: Target) -> Plan:
    statements: list[Statement] = []
    tables = set(state.tables)
    if not state.pgvector_version:
        statements.append(Statement(sql.SQL("CREATE EXTENSION IF NOT EXISTS vector"), "the vector type"))
    if state.has_tools:
        state.check_registry()
        after = state
    else:
        dimension = target.space.dimension
        statements.append(Statement(sql.SQL(TOOLS).format(dimension=sql.Literal(dimension)), "the registry"))
        statements += [Statement(sql.SQL(text), "an index that the server relies on") for text in TOOL_INDEXES]
        indexes: tuple[VectorIndex, ...] = ()
        if target.index_method in (None, "hnsw"):
            index = create_index(Role.CURRENT, dimension, "hnsw", concurrently=False)
            statements.append(Statement(index, "the vector index; the table is new and empty"))
            indexes = (expected_index(Role.CURRENT, dimension, "hnsw"),)
        comment = sql.SQL("COMMENT ON TABLE tools IS {}").format(sql.Literal(TABLE_COMMENT))
        statements.append(Statement(comment, "remember who made the table"))
        tables.add("tools")
        columns = dict.fromkeys(REQUIRED_COLUMNS, "json") | {"embedding": f"vector({dimension})"}
        after = replace(state, columns=columns, created_by_toolbox=True, indexes=indexes)
    if "tool_executions" not in state.tables:
        statements.append(Statement(sql.SQL(EXECUTIONS), "the log of executions"))
        statements += [Statement(sql.SQL(text), "an index that the server relies on") for text in EXECUTION_INDEXES]
        comment = sql.SQL("COMMENT ON TABLE tool_executions IS {}").format(sql.Literal(TABLE_COMMENT))
        statements.append(Statement(comment, "remember who made the table"))
        tables.add("tool_executions")
        after = replace(after, created_executions=True)
    after = replace(after, tables=frozenset(tables), pgvector_version=state.pgvector_version or "new")
    return Plan(tuple(statements), after)


def downgrade(state: RegistryState) -> Plan:
    if not state.has_tools:
        return Plan((), state)
    if not state.created_by_toolbox:
        return Plan((), state, notes=("the tables stay: they were there before toolbox adopted the registry",))
    statements = [Statement(sql.SQL("DROP TABLE tools"), "the registry goes")]
    gone, lost = {"tools"}, "tools: the registry itself"
    if state.created_executions:
        # Before the table that it refers to. One that was there before toolbox cannot refer to it, and stays.
        statements.insert(0, Statement(sql.SQL("DROP TABLE tool_executions"), "the log of executions goes"))
        gone, lost = gone | {"tool_executions"}, f"{lost} and the log of their executions"
    after = replace(state, tables=state.tables - gone, columns={}, indexes=())
    hindrances = state.attachments.naming(state.columns)
    return Plan(
        tuple(statements), after, losses=(Loss(count=state.tools, what=lost),), hindrances=hindrances, locks=True
    )


step(execute_planned, execute_planned)
