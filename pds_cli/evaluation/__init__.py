"""What `pds eval` and `pds study` do: scores of finished runs, tables, and blinded comparisons."""
