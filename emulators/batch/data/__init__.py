"""Input and output of batch jobs: JSONL files and BigQuery rows."""
