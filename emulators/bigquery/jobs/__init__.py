"""Query and load jobs of the local BigQuery."""
