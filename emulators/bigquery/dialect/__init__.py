"""GoogleSQL to DuckDB SQL."""
