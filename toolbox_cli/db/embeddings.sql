-- name: census --
-- The one way to count: active tools of a generation by the state of their vectors.
SELECT count(*) AS active,
       count(*) FILTER (WHERE fresh) AS fresh,
       count(*) FILTER (WHERE NOT fresh AND NOT failed AND present) AS stale,
       count(*) FILTER (WHERE NOT fresh AND NOT failed AND NOT present) AS missing,
       count(*) FILTER (WHERE NOT fresh AND failed) AS failed
FROM (
    SELECT t.{column} IS NOT NULL AS present,
           t.{column} IS NOT NULL AND toolbox_matches(t.{fingerprint}, %(model)s, %(dimension)s, %(document_prefix)s, %(template_version)s,
                                                           t.name::text, t.description::text, t.input_schema) AS fresh,
           f.tool_id IS NOT NULL AND toolbox_matches(f.fingerprint, %(model)s, %(dimension)s, %(document_prefix)s, %(template_version)s,
                                                           t.name::text, t.description::text, t.input_schema) AS failed
    FROM tools t
    LEFT JOIN embedding_failures f ON f.tool_id = t.id AND f.generation_id = %(generation_id)s
    WHERE t.is_active
) counted;

-- name: scope --
-- What a reindex would look at, by range of ids: how many tools, how many it would embed and why, and, if it is to be
-- measured, how much it would send.
SELECT (id / %(range_size)s)::int AS range, count(*) AS selected,
       count(*) FILTER (WHERE fresh AND NOT %(everything)s) AS unchanged,
       count(*) FILTER (WHERE NOT fresh AND failed) AS failed_before,
       count(*) FILTER (WHERE NOT fresh AND NOT failed AND NOT present) AS missing,
       count(*) FILTER (WHERE NOT fresh AND NOT failed AND present) AS stale,
       count(*) FILTER (WHERE fresh AND %(everything)s) AS forced,
       coalesce(sum(CASE WHEN %(measure)s AND (NOT fresh OR %(everything)s)
                         THEN length(toolbox_tool_text(name, description, input_schema)) END), 0)::bigint AS characters
FROM (
    SELECT t.id, t.name::text AS name, t.description::text AS description, t.input_schema,
           t.{column} IS NOT NULL AS present,
           t.{column} IS NOT NULL AND toolbox_matches(t.{fingerprint}, %(model)s, %(dimension)s, %(document_prefix)s, %(template_version)s,
                                                           t.name::text, t.description::text, t.input_schema) AS fresh,
           f.tool_id IS NOT NULL AND toolbox_matches(f.fingerprint, %(model)s, %(dimension)s, %(document_prefix)s, %(template_version)s,
                                                           t.name::text, t.description::text, t.input_schema) AS failed
    FROM tools t
    LEFT JOIN embedding_failures f ON f.tool_id = t.id AND f.generation_id = %(generation_id)s
    WHERE (t.is_active OR %(include_inactive)s)
      AND (%(category)s::text IS NULL OR t.category = %(category)s::text)
      AND (%(ids)s::bigint[] IS NULL OR t.id = ANY (%(ids)s::bigint[]))
) counted
GROUP BY 1
ORDER BY 1;

-- name: pending --
-- A page of the tools of an id range whose vector has to be made, with the text to make it from and what is to be stored beside it.
SELECT t.id, t.name::text AS name, x.text,
       toolbox_fingerprint(%(model)s, %(dimension)s, %(document_prefix)s, %(template_version)s, x.text)
       || toolbox_short_seal(%(model)s, %(dimension)s, %(document_prefix)s, %(template_version)s,
                             t.name::text, t.description::text, t.input_schema) AS fingerprint,
       f.tool_id IS NOT NULL AS failed_before
FROM tools t
CROSS JOIN LATERAL (
    SELECT toolbox_tool_text(t.name::text, t.description::text, t.input_schema) AS text OFFSET 0) x
LEFT JOIN embedding_failures f ON f.tool_id = t.id AND f.generation_id = %(generation_id)s
      AND toolbox_matches(f.fingerprint, %(model)s, %(dimension)s, %(document_prefix)s, %(template_version)s,
                                          t.name::text, t.description::text, t.input_schema)
WHERE t.id > %(after)s AND t.id < %(past)s AND t.id %% %(phases)s::int = %(phase)s::int
  AND (t.is_active OR %(include_inactive)s)
  AND (%(category)s::text IS NULL OR t.category = %(category)s::text)
  AND (%(ids)s::bigint[] IS NULL OR t.id = ANY (%(ids)s::bigint[]))
  AND (%(everything)s OR t.{column} IS NULL
       OR NOT toolbox_matches(t.{fingerprint}, %(model)s, %(dimension)s, %(document_prefix)s, %(template_version)s,
                                                 t.name::text, t.description::text, t.input_schema))
ORDER BY t.id
LIMIT %(page)s;

-- name: write --
-- Store vectors with their fingerprints in one statement, and only where the text is still that which they were made of.
UPDATE tools t SET {column} = v.embedding, {fingerprint} = v.fingerprint
FROM unnest(%(ids)s::bigint[], %(vectors)s, %(fingerprints)s::bytea[]) AS v(id, embedding, fingerprint)
WHERE t.id = v.id
  AND toolbox_matches(v.fingerprint, %(model)s, %(dimension)s, %(document_prefix)s, %(template_version)s,
                                     t.name::text, t.description::text, t.input_schema);

-- name: forget_failures --
-- A tool that has the vector of its present text is no failure any more.
DELETE FROM embedding_failures f
USING unnest(%(ids)s::bigint[], %(fingerprints)s::bytea[]) AS v(id, fingerprint), tools t
WHERE f.generation_id = %(generation_id)s AND f.tool_id = v.id AND t.id = v.id AND t.{fingerprint} = v.fingerprint;

-- name: learned --
-- What earlier runs and a probe learned of a service; a limit that a run met counts for a week, for services change. A
-- probe's words are a third fewer than tokens. least() passes over null, so that no profile has to be asked for. What a
-- service cuts by itself it may go on cutting: it knows its limit better.
SELECT coalesce(CASE WHEN learned_at > now() - interval '7 days' THEN max_batch END,
                CASE WHEN profile ->> 'largest_batch' IS NOT NULL
                     THEN least((profile ->> 'largest_batch')::int, %(most)s) END) AS max_batch,
       tools_per_second,
       CASE WHEN profile ->> 'long_inputs' = 'refused'
            THEN nullif((profile ->> 'longest_input')::int, 0) * 4 / 3 END AS max_tokens
FROM embedding_services WHERE endpoint_url = %(endpoint_url)s AND model = %(service_model)s;

-- name: keep_profile --
-- Remember what a service was found to do.
INSERT INTO embedding_services AS s (endpoint_url, model, profile)
VALUES (%(endpoint_url)s, %(service_model)s, %(profile)s::json)
ON CONFLICT (endpoint_url, model) DO UPDATE SET profile = excluded.profile, max_batch = NULL;

-- name: learn --
-- Remember what a run learned of its service; what it did not learn stays as an earlier run learned it.
INSERT INTO embedding_services AS s (endpoint_url, model, max_batch, tools_per_second)
VALUES (%(endpoint_url)s, %(service_model)s, %(max_batch)s, %(tools_per_second)s)
ON CONFLICT (endpoint_url, model) DO UPDATE
SET max_batch = coalesce(excluded.max_batch, s.max_batch),
    tools_per_second = coalesce(excluded.tools_per_second, s.tools_per_second),
    learned_at = CASE WHEN excluded.max_batch IS NULL THEN s.learned_at ELSE now() END;

-- name: record_failure --
-- Quarantine: the service refused this very text. The tool may have been deleted meanwhile.
INSERT INTO embedding_failures AS f (tool_id, generation_id, fingerprint, error)
SELECT t.id, %(generation_id)s, %(fingerprint)s, %(error)s FROM tools t WHERE t.id = %(tool_id)s
ON CONFLICT (tool_id, generation_id) DO UPDATE
SET error = excluded.error, fingerprint = excluded.fingerprint, failed_at = now(),
    attempts = CASE WHEN f.fingerprint = excluded.fingerprint THEN f.attempts + 1 ELSE 1 END;

-- name: vector_oids --
-- The type numbers that binary parameters need: pgvector's are different in every database.
SELECT 'vector'::regtype::oid::int AS vector, 'vector[]'::regtype::oid::int AS vectors;

-- name: resolve_tools --
-- Ids for what an operator typed: an id or a name.
SELECT wanted, (SELECT t.id FROM tools t WHERE t.name = wanted OR t.id::text = wanted
                ORDER BY (t.name = wanted) DESC LIMIT 1) AS id
FROM unnest(%(wanted)s::text[]) AS wanted;
