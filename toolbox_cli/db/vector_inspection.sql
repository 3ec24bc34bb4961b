-- name: vector_faults --
-- Vectors that no model makes: of length zero, or with components that are not finite; and those whose length is not 1.
-- Looks at every vector of an active tool: no other is ever found, and reindex leaves those alone.
SELECT count(*) AS looked_at,
       count(*) FILTER (WHERE norm = 0) AS zero,
       count(*) FILTER (WHERE norm IN ('NaN', 'Infinity')) AS non_finite,
       count(*) FILTER (WHERE norm > 0 AND norm < 'Infinity' AND abs(norm - 1) > 0.01) AS unnormalised,
       (array_agg(name ORDER BY id) FILTER (WHERE norm = 0 OR norm IN ('NaN', 'Infinity')))[1:3] AS examples
FROM (SELECT id, name::text AS name, vector_norm({column}) AS norm FROM tools
      WHERE {column} IS NOT NULL AND is_active) measured;

-- name: duplicates --
-- Vectors that several tools of different texts share, the largest groups first.
SELECT count(*) AS tools, (array_agg(name ORDER BY id))[1:3] AS names, (array_agg(id ORDER BY id))[1:3] AS ids
FROM (SELECT id, name::text AS name, sha256(vector_send({column})) AS vector,
             coalesce(substring({fingerprint} FOR 16), convert_to(name, 'UTF8')) AS text
      FROM tools WHERE {column} IS NOT NULL AND is_active) stored
GROUP BY vector
HAVING count(DISTINCT text) > 1
ORDER BY count(*) DESC, min(id) LIMIT 1000;

-- name: sampled_vectors --
-- Vectors of active tools in binary, the same ones at every call.
SELECT id, name::text AS name, vector_send({column}::vector) AS vector FROM tools
WHERE id = ANY (ARRAY(SELECT id FROM tools WHERE is_active AND {column} IS NOT NULL
                      ORDER BY hashint8extended(id, 2) LIMIT %(count)s))
ORDER BY id;

-- name: sample --
-- Tools with fresh vectors, their texts and their vectors: one of each of so many equal parts by id, so of all ages, the
-- same at every call; and those asked for.
SELECT t.id, t.name::text AS name, x.text, t.{column}::text AS vector
FROM tools t
CROSS JOIN LATERAL (
    SELECT toolbox_tool_text(t.name::text, t.description::text, t.input_schema) AS text OFFSET 0) x
WHERE t.id IN (
        (SELECT DISTINCT ON (part) id
         FROM (SELECT id, ntile(%(count)s) OVER (ORDER BY id) AS part, hashint8extended(id, 3) AS place
               FROM tools WHERE is_active AND {column} IS NOT NULL) parts
         ORDER BY part, place)
        UNION SELECT unnest(%(ids)s::bigint[]))
  AND t.is_active AND t.{column} IS NOT NULL
  AND toolbox_matches(t.{fingerprint}, %(model)s, %(dimension)s, %(document_prefix)s, %(template_version)s,
                                           t.name::text, t.description::text, t.input_schema)
ORDER BY t.id;

-- name: unsigned --
-- Active tools with a vector but no fingerprint: nothing says which model and text it was made from.
SELECT count(*) FROM tools WHERE is_active AND {column} IS NOT NULL AND {fingerprint} IS NULL;

-- name: stamps_alone --
-- Active tools with a fingerprint and no vector under it.
SELECT count(*) FROM tools WHERE is_active AND {column} IS NULL AND {fingerprint} IS NOT NULL;
