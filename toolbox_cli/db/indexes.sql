-- name: server_limits --
-- What the server gives an index build: memory now, and what it takes for its whole cache, in bytes.
SELECT pg_size_bytes(current_setting('maintenance_work_mem')) AS memory,
       pg_size_bytes(current_setting('effective_cache_size')) AS cache,
       current_setting('dynamic_shared_memory_type') AS shared_memory_type;

-- name: set_memory --
-- More memory for this session's index builds.
SELECT set_config('maintenance_work_mem', %(memory)s, false);

-- name: short_wait --
-- Do not wait longer than this for whoever may be using an index that is to go.
SELECT set_config('lock_timeout', '5s', false);

-- name: usual_wait --
-- Wait for locks as this session did before.
SELECT set_config('lock_timeout', reset_val, false) FROM pg_settings WHERE name = 'lock_timeout';

-- name: no_workers --
-- Build alone: parallel workers need shared memory for the whole graph.
SELECT set_config('max_parallel_maintenance_workers', '0', false);

-- name: progress --
-- How far the index build of a server process is.
SELECT phase, greatest(tuples_done, 0) FROM pg_stat_progress_create_index WHERE pid = %(pid)s;

-- name: build_under_way --
-- How far the build of this index is, whoever does it. The load of the tuples is the long part, and says how many.
SELECT p.phase,
       CASE WHEN p.tuples_total > 0 THEN p.tuples_done::float8 / p.tuples_total
            WHEN p.blocks_total > 0 THEN p.blocks_done::float8 / p.blocks_total END AS share
FROM pg_stat_progress_create_index p
JOIN pg_class c ON c.oid = p.index_relid
WHERE p.relid = to_regclass('tools') AND c.relname = %(index)s;
