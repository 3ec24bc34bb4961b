"""The schema that the migrations must lead to, at 8 dimensions, written down by hand and not derived from them.

``tools`` and ``tool_executions`` are the ToolBox server's (its Alembic revision 001), the defaults ours.
"""

from __future__ import annotations

_UTC = "(now() AT TIME ZONE 'utc'::text)"

COLUMNS: dict[str, str] = {
    "tools.id": "integer not null default nextval('tools_id_seq'::regclass)",
    "tools.name": "character varying(255) not null",
    "tools.description": "text not null",
    "tools.category": "character varying(100) not null default 'general'::character varying",
    "tools.tags": "json not null default '[]'::json",
    "tools.input_schema": "json not null default '{}'::json",
    "tools.output_schema": "json",
    "tools.implementation_type": "character varying(50) not null default 'external'::character varying",
    "tools.implementation_code": "text",
    "tools.embedding": "vector(8)",
    "tools.is_active": "boolean not null default true",
    "tools.version": "character varying(50) not null default '1.0.0'::character varying",
    "tools.created_at": f"timestamp without time zone not null default {_UTC}",
    "tools.updated_at": f"timestamp without time zone not null default {_UTC}",
    "tools.metadata": "json",
    "tools.embedding_fingerprint": "bytea",
    "tool_executions.id": "integer not null default nextval('tool_executions_id_seq'::regclass)",
    "tool_executions.tool_id": "integer not null",
    "tool_executions.tool_name": "character varying(255) not null",
    "tool_executions.input_data": "json not null",
    "tool_executions.output_data": "json",
    "tool_executions.status": "character varying(20) not null",
    "tool_executions.error_message": "text",
    "tool_executions.execution_time_ms": "integer",
    "tool_executions.started_at": f"timestamp without time zone not null default {_UTC}",
    "tool_executions.completed_at": "timestamp without time zone",
    "tool_executions.metadata": "json",
    "embedding_generations.id": "bigint not null identity",
    "embedding_generations.role": "text not null",
    "embedding_generations.model": "text",
    "embedding_generations.canonical_model": "text",
    "embedding_generations.dimension": "integer not null",
    "embedding_generations.document_prefix": "text not null default ''::text",
    "embedding_generations.query_prefix": "text not null default ''::text",
    "embedding_generations.template_version": "integer not null default 1",
    "embedding_generations.endpoint_url": "text",
    "embedding_generations.api_key_env": "text",
    "embedding_generations.index_method": "text not null default 'hnsw'::text",
    "embedding_generations.created_at": "timestamp with time zone not null default now()",
    "embedding_generations.activated_at": "timestamp with time zone",
    "embedding_generations.rolled_back_at": "timestamp with time zone",
    "embedding_generations.retired_at": "timestamp with time zone",
    "embedding_failures.tool_id": "integer not null",
    "embedding_failures.generation_id": "bigint not null",
    "embedding_failures.fingerprint": "bytea not null",
    "embedding_failures.error": "text not null",
    "embedding_failures.attempts": "integer not null default 1",
    "embedding_failures.failed_at": "timestamp with time zone not null default now()",
    "embedding_services.endpoint_url": "text not null",
    "embedding_services.model": "text not null",
    "embedding_services.max_batch": "integer",
    "embedding_services.tools_per_second": "real",
    "embedding_services.profile": "json",
    "embedding_services.learned_at": "timestamp with time zone not null default now()",
}

_MADE_BY = "ToolBox registry, created by toolbox migration 001"

#: Storage options and comment.
TABLES: dict[str, str] = {
    "tools": f"fillfactor=50 {_MADE_BY}",
    "tool_executions": _MADE_BY,
    "embedding_generations": "",
    "embedding_failures": "",
    "embedding_services": "",
}

#: Table, and what follows it in the definition; ``UNIQUE`` before the table where the index is unique.
INDEXES: dict[str, str] = {
    "tools_pkey": "UNIQUE tools USING btree (id)",
    "tools_name_key": "UNIQUE tools USING btree (name)",
    "ix_tools_name": "UNIQUE tools USING btree (name)",
    "ix_tools_category": "tools USING btree (category)",
    "ix_tools_is_active": "tools USING btree (is_active)",
    "ix_tools_active_category": "tools USING btree (is_active, category)",
    "ix_tools_tags": "tools USING gin (((tags)::jsonb))",
    "ix_tools_text": (
        "tools USING gin (to_tsvector('english'::regconfig, "
        '"left"(toolbox_tool_text((name)::text, description, input_schema), 50000)))'
    ),
    "ix_tools_embedding": "tools USING hnsw (embedding vector_cosine_ops)",
    "tool_executions_pkey": "UNIQUE tool_executions USING btree (id)",
    "ix_executions_tool_id": "tool_executions USING btree (tool_id)",
    "ix_executions_tool_name": "tool_executions USING btree (tool_name)",
    "ix_executions_status": "tool_executions USING btree (status)",
    "ix_executions_started_at": "tool_executions USING btree (started_at)",
    "ix_executions_tool_status": "tool_executions USING btree (tool_id, status)",
    "ix_executions_tool_time": "tool_executions USING btree (tool_name, started_at)",
    "embedding_generations_pkey": "UNIQUE embedding_generations USING btree (id)",
    "ix_embedding_generations_role": "UNIQUE embedding_generations USING btree (role) WHERE (role <> 'retired'::text)",
    "embedding_failures_pkey": "UNIQUE embedding_failures USING btree (tool_id, generation_id)",
    "embedding_services_pkey": "UNIQUE embedding_services USING btree (endpoint_url, model)",
}

CONSTRAINTS: dict[str, str] = {
    "tools.tools_pkey": "PRIMARY KEY (id)",
    "tools.tools_name_key": "UNIQUE (name)",
    "tool_executions.tool_executions_pkey": "PRIMARY KEY (id)",
    "tool_executions.tool_executions_tool_id_fkey": "FOREIGN KEY (tool_id) REFERENCES tools(id) ON DELETE CASCADE",
    "embedding_generations.embedding_generations_pkey": "PRIMARY KEY (id)",
    "embedding_generations.embedding_generations_role_check": (
        "CHECK ((role = ANY (ARRAY['current'::text, 'building'::text, 'previous'::text, 'retired'::text])))"
    ),
    "embedding_generations.embedding_generations_dimension_check": (
        "CHECK (((dimension >= 1) AND (dimension <= 16000)))"
    ),
    "embedding_generations.embedding_generations_index_method_check": (
        "CHECK ((index_method = ANY (ARRAY['hnsw'::text, 'ivfflat'::text, 'none'::text])))"
    ),
    "embedding_services.embedding_services_pkey": "PRIMARY KEY (endpoint_url, model)",
    "embedding_failures.embedding_failures_pkey": "PRIMARY KEY (tool_id, generation_id)",
    "embedding_failures.embedding_failures_tool_id_fkey": (
        "FOREIGN KEY (tool_id) REFERENCES tools(id) ON DELETE CASCADE"
    ),
    "embedding_failures.embedding_failures_generation_id_fkey": (
        "FOREIGN KEY (generation_id) REFERENCES embedding_generations(id) ON DELETE CASCADE"
    ),
}

#: Language, volatility (i: immutable), parallel safety (s: safe).
FUNCTIONS: dict[str, str] = {
    "toolbox_tool_text(text,text,json)": "plpgsql i s",
    "toolbox_fingerprint(text,integer,text,integer,text)": "sql i s",
    "toolbox_seal(text,integer,text,integer,text,text,json)": "sql i s",
    "toolbox_short_seal(text,integer,text,integer,text,text,json)": "sql i s",
    "toolbox_matches(bytea,text,integer,text,integer,text,text,json)": "sql i s",
}


def index_definition(name: str) -> str:
    """An entry of INDEXES as ``pg_get_indexdef`` spells it."""
    text = INDEXES[name]
    unique = "UNIQUE " if text.startswith("UNIQUE ") else ""
    return f"CREATE {unique}INDEX {name} ON public.{text.removeprefix('UNIQUE ')}"
