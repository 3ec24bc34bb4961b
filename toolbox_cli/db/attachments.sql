-- name: column_settings --
-- What an operator has set on our columns: rights, comment, storage, statistics.
SELECT a.attname AS "column",
       coalesce((SELECT json_agg(json_build_array(CASE WHEN g.grantee <> 0 THEN pg_get_userbyid(g.grantee) END,
                                                  g.privilege_type, g.is_grantable)
                                 ORDER BY pg_get_userbyid(g.grantee), g.privilege_type)
                 FROM aclexplode(a.attacl) g), '[]') AS grants,
       col_description(a.attrelid, a.attnum) AS comment,
       a.attstorage::text AS storage, t.typstorage::text AS usual_storage, a.attcompression::text AS compression,
       nullif(a.attstattarget, -1) AS statistics,
       coalesce(a.attoptions, ARRAY[]::text[]) AS options,
       a.attnotnull AS not_null
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = to_regclass('tools') AND NOT a.attisdropped AND a.attname = ANY (%(columns)s);

-- name: dependents --
-- Everything that names one of our columns, as PostgreSQL's own record of dependencies knows it. An object that names
-- several of them comes once, with all. Vector indexes are planned for elsewhere, a NOT NULL is known from the column.
SELECT d.classid::regclass::text AS catalogue, d.objid, array_agg(DISTINCT a.attname::text) AS columns,
       min(pg_describe_object(d.classid, d.objid, 0)) AS description
FROM pg_depend d
JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = to_regclass('tools') AND d.refobjsubid > 0
  AND a.attname = ANY (%(columns)s)
  AND NOT (d.classid = 'pg_class'::regclass AND EXISTS (
        SELECT FROM pg_class c JOIN pg_am m ON m.oid = c.relam WHERE c.oid = d.objid AND m.amname IN ('hnsw', 'ivfflat')))
  AND NOT (d.classid = 'pg_constraint'::regclass AND EXISTS (
        SELECT FROM pg_constraint c WHERE c.oid = d.objid AND c.contype = 'n'))
GROUP BY d.classid, d.objid
ORDER BY 1, 4;

-- name: view --
-- A view that reads the table: its name, its text, and whether a column of the table leaves it as a vector.
SELECT v.oid::regclass::text AS name, v.relkind::text AS kind, r.rulename = '_RETURN' AS whole,
       pg_get_viewdef(v.oid) AS definition, coalesce(v.reloptions, ARRAY[]::text[]) AS options,
       EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = v.oid AND a.atttypid = to_regtype('vector')) AS has_vectors,
       pg_has_role(v.relowner, 'USAGE') AS ours
FROM pg_rewrite r JOIN pg_class v ON v.oid = r.ev_class
WHERE r.oid = %(oid)s;

-- name: trigger --
-- A trigger that names a column: UPDATE OF, or in its condition.
SELECT tgname::text AS name, pg_get_triggerdef(oid) AS definition, tgenabled::text AS enabled,
       tgconstraint <> 0 OR tgisinternal AS bound
FROM pg_trigger WHERE oid = %(oid)s;

-- name: publication --
-- A publication that lists columns of the table. Read by name through jsonb: PostgreSQL 14 has no column lists.
SELECT p.pubname::text AS name, to_jsonb(l) -> 'attnames' AS columns, to_jsonb(l) ->> 'rowfilter' AS filter,
       pg_has_role(p.pubowner, 'USAGE') AS ours
FROM pg_publication_rel r
JOIN pg_publication p ON p.oid = r.prpubid
JOIN pg_publication_tables l ON l.pubname = p.pubname
                            AND to_regclass(quote_ident(l.schemaname) || '.' || quote_ident(l.tablename)) = r.prrelid
WHERE r.oid = %(oid)s;

-- name: published_whole --
-- Publications that replicate the table with all its columns: a subscriber must have a column before we add it.
SELECT DISTINCT p.pubname::text AS name
FROM pg_publication p
JOIN pg_publication_tables l ON l.pubname = p.pubname
WHERE to_regclass(quote_ident(l.schemaname) || '.' || quote_ident(l.tablename)) = to_regclass('tools')
  AND NOT EXISTS (SELECT FROM pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid = to_regclass('tools')
                  AND to_jsonb(r) ->> 'prattrs' IS NOT NULL)
ORDER BY 1;
