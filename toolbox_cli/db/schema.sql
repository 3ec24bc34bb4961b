-- name: server --
-- What server this is, and which pgvector it has installed in this database.
SELECT current_setting('server_version') AS server_version,
       current_setting('server_version_num')::int AS server_version_number,
       (SELECT extversion FROM pg_extension WHERE extname = 'vector') AS pgvector_version,
       (SELECT default_version FROM pg_available_extensions WHERE name = 'vector') AS pgvector_available;

-- name: tables --
-- Which of the tables that matter are there, as search_path finds them.
SELECT name, coalesce(obj_description(to_regclass(name), 'pg_class'), '') AS comment,
       (SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid = to_regclass(name)) AS schema
FROM unnest(ARRAY['tools', 'tool_executions', 'alembic_version', 'embedding_generations', 'embedding_failures',
                  'embedding_changes', '_yoyo_migration', 'yoyo_lock']) AS name
WHERE to_regclass(name) IS NOT NULL;

-- name: columns --
-- The columns of the table tools with their types, e.g. vector(768).
SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type
FROM pg_attribute a
WHERE a.attrelid = to_regclass('tools') AND a.attnum > 0 AND NOT a.attisdropped;

-- name: functions --
-- Which of our functions are there.
SELECT name FROM unnest(ARRAY['toolbox_tool_text(text,text,json)',
                              'toolbox_fingerprint(text,integer,text,integer,text)',
                              'toolbox_seal(text,integer,text,integer,text,text,json)',
                              'toolbox_matches(bytea,text,integer,text,integer,text,text,json)']) AS name
WHERE to_regprocedure(name) IS NOT NULL;

-- name: vector_indexes --
-- Vector indexes of the table tools. The column is found through pg_depend, which also knows those of expressions.
SELECT c.relname AS name, a.attname AS "column", am.amname AS method,
       split_part(format_type(e.atttypid, NULL), '(', 1) AS element, o.opcname AS operator_class,
       CASE WHEN e.atttypmod > 0 THEN e.atttypmod END AS dimension,
       i.indisvalid AS valid, coalesce(pg_relation_size(c.oid), 0) AS size_bytes
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_am am ON am.oid = c.relam
JOIN pg_opclass o ON o.oid = i.indclass[0]
JOIN pg_attribute e ON e.attrelid = c.oid AND e.attnum = 1
JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
                AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid AND d.refobjsubid > 0
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = d.refobjsubid
WHERE i.indrelid = to_regclass('tools') AND am.amname IN ('hnsw', 'ivfflat')
  AND a.attname = ANY (ARRAY['embedding', 'embedding_next', 'embedding_previous'])
GROUP BY c.oid, c.relname, a.attname, am.amname, e.atttypid, e.atttypmod, o.opcname, i.indisvalid
ORDER BY c.relname;

-- name: generations --
-- The live generations.
SELECT id, role, model, canonical_model, dimension, document_prefix, query_prefix, template_version,
       endpoint_url, api_key_env, index_method, created_at, activated_at, rolled_back_at
FROM embedding_generations WHERE role IN ('current', 'building', 'previous');

-- name: applied --
-- Migrations that yoyo has marked as applied.
SELECT migration_id FROM _yoyo_migration ORDER BY migration_id;

-- name: count_vectors --
-- How many rows, active or not, hold a vector in this column. Reads no vector, only the null bitmaps.
SELECT count({column}) FROM tools;

-- name: count_tools --
-- How many tools there are, active or not.
SELECT count(*) FROM tools;

-- name: abandoned --
-- When a generation that was being built was last given up; NULL if none ever was, or if another was activated since.
SELECT max(retired_at) FROM embedding_generations
WHERE role = 'retired' AND activated_at IS NULL
  AND retired_at > (SELECT max(activated_at) FROM embedding_generations);

-- name: text_index --
-- Whether the full-text index is there, and valid.
SELECT i.indisvalid FROM pg_index i WHERE i.indexrelid = to_regclass('ix_tools_text') AND i.indrelid = to_regclass('tools');
