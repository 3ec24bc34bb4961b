-- name: collection --
-- How many tools the filters leave: counted where they are few, PostgreSQL's estimate where they are many.
SELECT CASE WHEN counted < %(enough)s THEN counted
            ELSE greatest(counted, (SELECT reltuples FROM pg_class WHERE oid = to_regclass('tools')))::bigint END
FROM (SELECT count(*) AS counted FROM (
        SELECT FROM tools t
        WHERE (t.is_active OR %(include_inactive)s)
          AND (%(category)s::text IS NULL OR t.category = %(category)s::text)
          AND (%(tags)s::jsonb IS NULL OR t.tags::jsonb @> %(tags)s::jsonb)
        LIMIT %(enough)s) sample) few;

-- name: coverage --
-- How much of a question each tool has: the sum of its words' rarities there, over the sum of all. A word that nobody has
-- counts too, so that a tool that has one word of five covers little. Words that more than `common` tools have say next
-- to nothing and are left out, unless a question that is all there is (`alone`) has no others. The best tools, and those
-- asked for.
WITH question AS MATERIALIZED (
    SELECT lexeme FROM unnest(to_tsvector({configuration}, left(%(question)s, 10000)))),
hits AS MATERIALIZED (
    SELECT q.lexeme, found.id, found.size
    FROM question q
    CROSS JOIN LATERAL (
        SELECT t.id, length(t.description) AS size FROM tools t
        WHERE {lexemes} @@ ('''' || replace(replace(q.lexeme, '\', '\\'), '''', '''''') || '''')::tsquery
          AND (t.is_active OR %(include_inactive)s)
          AND (%(category)s::text IS NULL OR t.category = %(category)s::text)
          AND (%(tags)s::jsonb IS NULL OR t.tags::jsonb @> %(tags)s::jsonb)
        LIMIT %(common)s) found),
counts AS MATERIALIZED (
    SELECT q.lexeme, count(h.id) AS tools FROM question q LEFT JOIN hits h USING (lexeme) GROUP BY q.lexeme),
rarities AS MATERIALIZED (
    SELECT lexeme, ln(1 + %(collection)s::float8 / greatest(tools, 0.5)) AS rarity FROM counts
    WHERE tools < %(common)s
       OR (%(alone)s AND NOT EXISTS (SELECT FROM counts WHERE tools BETWEEN 1 AND %(common)s - 1))),
covered AS MATERIALIZED (
    SELECT h.id, min(h.size) AS size, sum(r.rarity) / (SELECT sum(rarity) FROM rarities) AS coverage
    FROM hits h JOIN rarities r USING (lexeme)
    GROUP BY h.id)
SELECT id, coverage, size FROM covered WHERE id = ANY (%(ids)s::bigint[])
UNION
(SELECT id, coverage, size FROM covered ORDER BY coverage DESC, size, id LIMIT %(limit)s)
ORDER BY coverage DESC, size, id;

-- name: described --
-- Tools by id, without a similarity.
SELECT t.id, t.name::text AS name, t.description::text AS description, t.category::text AS category,
       NULL::float8 AS similarity
FROM tools t WHERE t.id = ANY (%(ids)s::bigint[]);

-- name: measured --
-- Tools by id with their similarity to a vector, NULL where they have none. Nothing if the column has become another
-- generation's.
SELECT t.id, t.name::text AS name, t.description::text AS description, t.category::text AS category,
       nullif(1 - (t.{column} <=> %(vector)s::vector), 'NaN') AS similarity
FROM tools t
WHERE t.id = ANY (%(ids)s::bigint[])
  AND (SELECT g.id FROM embedding_generations g WHERE g.role = %(role)s) = %(generation_id)s;

-- name: active_names --
-- Which of these names are active tools.
SELECT name::text FROM tools WHERE is_active AND name = ANY (%(names)s::text[]);

-- name: categories --
-- The categories of active tools, or of all.
SELECT DISTINCT category::text FROM tools WHERE is_active OR %(include_inactive)s ORDER BY 1;
