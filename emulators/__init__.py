"""A local Google Cloud on loopback: Cloud Storage, BigQuery and Vertex AI for demo, tests and rehearsal."""
