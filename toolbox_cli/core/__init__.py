"""What the product does: reindex, change of generation, search, verify, transfer. Sees protocols only."""
