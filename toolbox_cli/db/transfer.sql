-- name: tools_by_name --
-- The tools that an import meets, without their vectors.
SELECT id, name, description, category, tags, input_schema, output_schema, implementation_type,
       implementation_code, is_active, version, created_at, updated_at, metadata
FROM tools
WHERE name = ANY (%(names)s::text[])
ORDER BY id;

-- name: tools_by_name_locked --
-- The same for an import that updates. This lock lets executions of the tools be recorded meanwhile (foreign key).
SELECT id, name, description, category, tags, input_schema, output_schema, implementation_type,
       implementation_code, is_active, version, created_at, updated_at, metadata
FROM tools
WHERE name = ANY (%(names)s::text[])
ORDER BY id
FOR NO KEY UPDATE;

-- name: insert_tools --
-- New tools in the order of the file, without vectors. All columns, for adopted registries have no defaults. A name
-- that another session registered meanwhile is left alone and missing from the answer.
INSERT INTO tools (name, description, category, tags, input_schema, output_schema, implementation_type,
                   implementation_code, is_active, version, created_at, updated_at, metadata)
SELECT n.name, n.description, n.category, n.tags, n.input_schema, n.output_schema, n.implementation_type,
       n.implementation_code, n.is_active, n.version, now() AT TIME ZONE 'utc', now() AT TIME ZONE 'utc', n.metadata
FROM ROWS FROM (json_to_recordset(%(tools)s::json) AS (
        name text, description text, category text, tags json, input_schema json, output_schema json,
        implementation_type text, implementation_code text, is_active boolean, version text, metadata json
     )) WITH ORDINALITY AS n (name, description, category, tags, input_schema, output_schema, implementation_type,
                              implementation_code, is_active, version, metadata, position)
ORDER BY n.position
ON CONFLICT (name) DO NOTHING
RETURNING name;

-- name: update_tools --
-- Only the columns named in `changed` get a new value; the others keep theirs to the byte, and the vectors too.
UPDATE tools AS t
SET description         = CASE WHEN 'description' = ANY (n.changed) THEN n.description ELSE t.description END,
    category            = CASE WHEN 'category' = ANY (n.changed) THEN n.category ELSE t.category END,
    tags                = CASE WHEN 'tags' = ANY (n.changed) THEN n.tags ELSE t.tags END,
    input_schema        = CASE WHEN 'input_schema' = ANY (n.changed) THEN n.input_schema ELSE t.input_schema END,
    output_schema       = CASE WHEN 'output_schema' = ANY (n.changed) THEN n.output_schema ELSE t.output_schema END,
    implementation_type = CASE WHEN 'implementation_type' = ANY (n.changed) THEN n.implementation_type
                               ELSE t.implementation_type END,
    implementation_code = CASE WHEN 'implementation_code' = ANY (n.changed) THEN n.implementation_code
                               ELSE t.implementation_code END,
    is_active           = CASE WHEN 'is_active' = ANY (n.changed) THEN n.is_active ELSE t.is_active END,
    version             = CASE WHEN 'version' = ANY (n.changed) THEN n.version ELSE t.version END,
    metadata            = CASE WHEN 'metadata' = ANY (n.changed) THEN n.metadata ELSE t.metadata END,
    updated_at          = now() AT TIME ZONE 'utc'
FROM json_to_recordset(%(tools)s::json) AS n (
        id integer, changed text[], description text, category text, tags json, input_schema json,
        output_schema json, implementation_type text, implementation_code text, is_active boolean, version text,
        metadata json)
WHERE t.id = n.id;

-- name: export_page --
-- One page of tools in the order of their ids.
SELECT id, name, description, category, tags, input_schema, output_schema, implementation_type,
       implementation_code, is_active, version, created_at, updated_at, metadata
FROM tools
WHERE id > %(after)s
ORDER BY id
LIMIT %(limit)s;

-- name: export_page_with_embeddings --
-- One page with the vectors that search reads. As text, so that no statement's result type depends on a dimension.
SELECT id, name, description, category, tags, input_schema, output_schema, implementation_type,
       implementation_code, is_active, version, created_at, updated_at, metadata, embedding::text AS embedding
FROM tools
WHERE id > %(after)s
ORDER BY id
LIMIT %(limit)s;

-- name: has_generations --
-- Whether this registry has been brought under our migrations, which record who made the vectors.
SELECT to_regclass('embedding_generations') IS NOT NULL;

-- name: current_model --
-- The model that made the vectors that search reads.
SELECT model FROM embedding_generations WHERE role = 'current';
