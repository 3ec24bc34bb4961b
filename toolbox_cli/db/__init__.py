"""Everything that speaks SQL: connections, named queries, schema plans, the stores and the embedded server."""
