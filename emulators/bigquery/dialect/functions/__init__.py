"""GoogleSQL functions that DuckDB lacks or computes differently."""
