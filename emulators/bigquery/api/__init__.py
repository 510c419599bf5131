"""REST methods of the local BigQuery."""
