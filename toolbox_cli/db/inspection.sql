-- name: vector_faults --
-- Vectors that no model makes: of length zero, or with components that are not finite. Looks at every vector.
SELECT count(*) FILTER (WHERE norm = 0) AS zero,
       count(*) FILTER (WHERE norm IN ('NaN', 'Infinity')) AS non_finite,
       (array_agg(name ORDER BY id) FILTER (WHERE norm = 0 OR norm IN ('NaN', 'Infinity')))[1:3] AS examples
FROM (SELECT id, name::text AS name, vector_norm({column}) AS norm FROM tools WHERE {column} IS NOT NULL) measured;

-- name: unsigned --
-- Active tools with a vector but no fingerprint: nothing says which model and text it was made from.
SELECT count(*) FROM tools WHERE is_active AND {column} IS NOT NULL AND {fingerprint} IS NULL;

-- name: try_insert --
-- What the ToolBox server does when a tool is registered, all columns sent, embedding included.
INSERT INTO tools (name, description, category, tags, input_schema, output_schema, implementation_type,
                   is_active, version, created_at, updated_at, embedding)
VALUES (%(name)s, 'Written by toolbox verify and rolled back', 'test', '[]', '{{}}', '{{}}', 'python_function', true,
        '1.0.0', now() AT TIME ZONE 'utc', now() AT TIME ZONE 'utc', %(vector)s::vector);

-- name: fresh_tool --
-- An active tool whose vector is fresh, with the text that it was made from: the newest.
SELECT t.id, t.name::text AS name, x.text
FROM tools t
CROSS JOIN LATERAL (
    SELECT toolbox_tool_text(t.name::text, t.description::text, t.input_schema) AS text OFFSET 0) x
WHERE t.is_active AND t.{column} IS NOT NULL
  AND toolbox_matches(t.{fingerprint}, %(model)s, %(dimension)s, %(document_prefix)s, %(template_version)s,
                                           t.name::text, t.description::text, t.input_schema)
ORDER BY t.id DESC LIMIT 1;
