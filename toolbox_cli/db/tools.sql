-- name: list --
-- Tools in the order of their names, a page at a time.
SELECT id, name::text AS name, description::text AS description, category::text AS category, tags, is_active
FROM tools
WHERE (is_active OR %(include_inactive)s) AND (%(category)s::text IS NULL OR category = %(category)s::text)
ORDER BY name, id
LIMIT %(limit)s OFFSET %(offset)s;

-- name: count --
-- How many tools a listing with these filters has in all.
SELECT count(*) FROM tools
WHERE (is_active OR %(include_inactive)s) AND (%(category)s::text IS NULL OR category = %(category)s::text);

-- name: find --
-- One tool by name or id; a name that looks like a number wins over the id.
SELECT id, name::text AS name, description::text AS description, category::text AS category, tags, input_schema,
       output_schema, implementation_type::text AS implementation_type, implementation_code, is_active,
       version::text AS version, created_at, updated_at, metadata
FROM tools WHERE name = %(wanted)s OR id::text = %(wanted)s
ORDER BY (name = %(wanted)s) DESC LIMIT 1;

-- name: set_active --
-- Switch a tool on or off; returns nothing when it already was.
UPDATE tools SET is_active = %(active)s, updated_at = (now() AT TIME ZONE 'utc')
WHERE id = %(id)s AND is_active IS DISTINCT FROM %(active)s
RETURNING id;
