"""What `pds eval` does: scores of finished runs, groups of them, tables."""
