"""AI functions and remote models of the local BigQuery."""
