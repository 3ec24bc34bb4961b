-- name: stale_among_changed --
-- Active tools that the server has touched lately and that have no vector of their present text. Run under the
-- table's lock, where it must not look at more than those.
SELECT FROM embedding_changes c
JOIN tools t ON t.id = c.tool_id
WHERE t.is_active
  AND (t.{column} IS NULL
       OR NOT toolbox_matches(t.{fingerprint}, %(model)s, %(dimension)s, %(document_prefix)s, %(template_version)s,
                              t.name::text, t.description::text, t.input_schema))
  AND NOT EXISTS (
        SELECT FROM embedding_failures f
        WHERE f.tool_id = t.id AND f.generation_id = %(generation_id)s
          AND toolbox_matches(f.fingerprint, %(model)s, %(dimension)s, %(document_prefix)s, %(template_version)s,
                              t.name::text, t.description::text, t.input_schema));

-- name: changed_tools --
-- What the server has touched since the cutover began to watch.
SELECT DISTINCT tool_id FROM embedding_changes ORDER BY 1;
