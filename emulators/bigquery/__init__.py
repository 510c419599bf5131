"""The local BigQuery."""
