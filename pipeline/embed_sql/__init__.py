"""The SQL lane of embeddings: BigQuery calls the model."""
