"""Clients of BigQuery, Cloud Storage and Vertex AI, one per process."""
