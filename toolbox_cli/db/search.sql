-- name: count_candidates --
-- How many tools the filters leave, counted no further than needed to choose between exact and index search.
SELECT count(*) FROM (
    SELECT FROM tools t
    WHERE t.{column} IS NOT NULL AND (t.is_active OR %(include_inactive)s)
      AND (%(category)s::text IS NULL OR t.category = %(category)s::text)
      AND (%(tags)s::jsonb IS NULL OR t.tags::jsonb @> %(tags)s::jsonb)
    LIMIT %(enough)s) counted;

-- name: exact --
-- Every candidate by its true distance. "+ 0" keeps the planner from an index that would only approximate it. Nothing if
-- the column has become another generation's: this snapshot is taken after the table is locked, so it knows of the swap.
-- OFFSET 0 keeps the planner from writing the distance out wherever it is named, and fetching every vector three times:
-- 37 ms against 96 ms for 5,000 x 768.
SELECT id, name, description, category, 1 - distance AS similarity
FROM (
    SELECT t.id, t.name::text AS name, t.description::text AS description, t.category::text AS category,
           (t.{column} <=> %(vector)s::vector) + 0 AS distance
    FROM tools t
    WHERE t.{column} IS NOT NULL AND (t.is_active OR %(include_inactive)s)
      AND (%(category)s::text IS NULL OR t.category = %(category)s::text)
      AND (%(tags)s::jsonb IS NULL OR t.tags::jsonb @> %(tags)s::jsonb)
      AND (SELECT g.id FROM embedding_generations g WHERE g.role = %(role)s) = %(generation_id)s
    OFFSET 0
) measured
WHERE distance <> 'NaN'
ORDER BY distance, id
LIMIT %(limit)s;

-- name: by_index --
-- Candidates from the vector index, in its own expression, then ranked by their true distance.
SELECT id, name, description, category, 1 - distance AS similarity
FROM (
    SELECT t.id, t.name::text AS name, t.description::text AS description, t.category::text AS category,
           t.{column} <=> %(vector)s::vector AS distance
    FROM tools t
    WHERE t.{column} IS NOT NULL AND (t.is_active OR %(include_inactive)s)
      AND (%(category)s::text IS NULL OR t.category = %(category)s::text)
      AND (%(tags)s::jsonb IS NULL OR t.tags::jsonb @> %(tags)s::jsonb)
      AND (SELECT g.id FROM embedding_generations g WHERE g.role = %(role)s) = %(generation_id)s
    ORDER BY {expression} {operator} {probe}
    LIMIT %(candidates)s
) measured
WHERE distance <> 'NaN'
ORDER BY distance, id
LIMIT %(limit)s;

-- name: tune --
-- Settings of one transaction: how far the index looks, and that it is used at all. The planner does not know that
-- vectors live in TOAST, so it takes reading and sorting them all for cheap, by a sequential scan or through the index
-- on is_active. Without sorting, only the vector index gives the order. pgvector 0.8 and later go on looking until
-- enough candidates pass the filters; the exact way fills up what is missing before.
SELECT set_config('hnsw.ef_search', %(ef_search)s::text, true), set_config('ivfflat.probes', %(probes)s::text, true),
       set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
       set_config('enable_sort', 'off', true),
       CASE WHEN e.iterative THEN set_config('hnsw.iterative_scan', 'relaxed_order', true) END,
       CASE WHEN e.iterative THEN set_config('ivfflat.iterative_scan', 'relaxed_order', true) END
FROM (SELECT string_to_array(extversion, '.')::int[] >= ARRAY[0, 8] AS iterative
      FROM pg_extension WHERE extname = 'vector') e;

-- name: estimated_rows --
-- How many rows the table had when it was last analysed; -1 if it never was.
SELECT reltuples::bigint FROM pg_class WHERE oid = 'tools'::regclass;

-- name: generation_in_role --
-- Which generation has a role, and with it its column, now.
SELECT id FROM embedding_generations WHERE role = %(role)s;

-- name: sample_vectors --
-- Vectors of active tools, spread over all ids and the same at every call.
SELECT {column}::text FROM tools
WHERE id = ANY (ARRAY(SELECT id FROM tools WHERE is_active AND {column} IS NOT NULL
                      ORDER BY hashint8extended(id, 0) LIMIT %(count)s))
ORDER BY id;

-- name: sample_tools --
-- Active tools with their texts, spread over all ids and the same at every call.
SELECT id, name::text AS name, toolbox_tool_text(name::text, description::text, input_schema) AS text
FROM tools
WHERE id = ANY (ARRAY(SELECT id FROM tools WHERE is_active AND {column} IS NOT NULL
                      ORDER BY hashint8extended(id, 1) LIMIT %(count)s))
ORDER BY id;

-- name: stored_vector --
-- A tool's vector as text; NULL where it has none.
SELECT {column}::text FROM tools WHERE id = %(id)s;

-- name: plain --
-- The query that a server makes which knows nothing of our settings.
SELECT t.id FROM tools t WHERE t.is_active ORDER BY t.{column} <=> %(vector)s::vector LIMIT %(limit)s;

-- name: count_vectors --
-- How many rows hold a vector.
SELECT count({column}) FROM tools;
