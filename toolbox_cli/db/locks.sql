-- name: try_lock_exclusive --
-- Take the registry's lock for a change of schema or generations, without waiting.
SELECT pg_try_advisory_lock(%(space)s::int, %(key)s::int);

-- name: try_lock_shared --
-- Take the registry's lock for work that any number of sessions may do at once.
SELECT pg_try_advisory_lock_shared(%(space)s::int, %(key)s::int);

-- name: unlock_exclusive --
-- Give the exclusive lock back.
SELECT pg_advisory_unlock(%(space)s::int, %(key)s::int);

-- name: unlock_shared --
-- Give the shared lock back.
SELECT pg_advisory_unlock_shared(%(space)s::int, %(key)s::int);

-- name: unlock_space --
-- Give all shared locks of a space back.
SELECT pg_advisory_unlock_shared(classid::bigint::bit(32)::int, objid::bigint::bit(32)::int) FROM pg_locks
WHERE locktype = 'advisory' AND mode = 'ShareLock' AND pid = pg_backend_pid() AND classid = %(space)s::int::oid
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database());

-- name: lock_holder --
-- Who holds the registry's lock: server process, the name it gave itself, and since when it is connected.
SELECT l.pid, a.application_name, a.backend_start AT TIME ZONE 'UTC'
FROM pg_locks l
LEFT JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND l.classid = %(space)s::int::oid AND l.objid = %(key)s::int::oid AND l.pid <> pg_backend_pid()
ORDER BY a.backend_start
LIMIT 1;

-- name: blockers --
-- Whom a waiting session waits for, and whether that is an autovacuum that may be interrupted.
SELECT a.pid, coalesce(nullif(a.application_name, ''), a.backend_type), coalesce(a.state, 'active'),
       coalesce(extract(epoch FROM now() - a.xact_start), 0)::float8 AS age,
       a.backend_type = 'autovacuum worker' AND a.query NOT LIKE '%%to prevent wraparound%%'
FROM unnest(pg_blocking_pids(%(pid)s)) AS blocker JOIN pg_stat_activity a ON a.pid = blocker
ORDER BY a.xact_start LIMIT 3;

-- name: cancel --
-- Interrupt the statement of another session.
SELECT pg_cancel_backend(%(pid)s);

-- name: table_holders --
-- Sessions that hold a lock on the table tools, the oldest transaction first.
SELECT l.pid, coalesce(nullif(a.application_name, ''), a.backend_type), coalesce(a.state, 'active'),
       extract(epoch FROM now() - a.xact_start)::float8 AS age
FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.relation = to_regclass('tools') AND l.granted AND l.pid <> pg_backend_pid() AND a.xact_start IS NOT NULL
GROUP BY l.pid, a.application_name, a.backend_type, a.state, a.xact_start
ORDER BY a.xact_start LIMIT 3;

-- name: holders --
-- Every session that holds a lock of ours: server process, the name it gave itself, and since when it is connected.
SELECT l.pid, coalesce(a.application_name, '') AS name, a.backend_start AT TIME ZONE 'UTC' AS since
FROM pg_locks l
LEFT JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND l.classid = %(space)s::int::oid AND l.objid = %(key)s::int::oid
ORDER BY a.backend_start;

-- name: keys_of_others --
-- The keys that other sessions have locked in a space.
SELECT DISTINCT l.objid::bigint::int FROM pg_locks l
WHERE l.locktype = 'advisory' AND l.granted AND l.pid <> pg_backend_pid()
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND l.classid = %(space)s::int::oid;

-- name: room --
-- How many locks the server has room for, all sessions together.
SELECT current_setting('max_locks_per_transaction')::int
       * (current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int);

-- name: server_process --
-- Which server process answers this session now; through a pooler it may be another one each time.
SELECT pg_backend_pid();
