"""HTML pages of runs: the report, the comparison, the study; with their charts and templates."""
