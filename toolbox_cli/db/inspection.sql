-- name: try_insert --
-- What the ToolBox server does when a tool is registered, all columns sent, embedding included.
INSERT INTO tools (name, description, category, tags, input_schema, output_schema, implementation_type,
                   is_active, version, created_at, updated_at, embedding)
VALUES (%(name)s, 'Written by toolbox verify and rolled back', 'test', '[]', '{{}}', '{{}}', 'python_function', true,
        '1.0.0', now() AT TIME ZONE 'utc', now() AT TIME ZONE 'utc', %(vector)s::vector);

-- name: server_settings --
-- What the server gives searches and index builds, in bytes.
SELECT pg_size_bytes(current_setting('shared_buffers')) AS shared_buffers,
       pg_size_bytes(current_setting('maintenance_work_mem')) AS maintenance_work_mem,
       current_setting('max_parallel_maintenance_workers')::int AS parallel_workers,
       (SELECT default_version FROM pg_available_extensions WHERE name = 'vector') AS pgvector_available;

-- name: odd_indexes --
-- The vector indexes of the table, those of ours first. One that is being built is not valid yet.
SELECT c.relname::text AS name, a.attname::text AS "column", i.indisvalid AS valid
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_am am ON am.oid = c.relam AND am.amname IN ('hnsw', 'ivfflat')
JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
                AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid AND d.refobjsubid > 0
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = d.refobjsubid
WHERE i.indrelid = to_regclass('tools')
  AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.index_relid = i.indexrelid)
ORDER BY a.attname, i.indisvalid DESC, NOT starts_with(c.relname, 'ix_tools_embedding'), c.relname;

-- name: lock_rows --
-- yoyo's own lock is a row, which outlives whoever took it.
SELECT count(*) FROM yoyo_lock;
