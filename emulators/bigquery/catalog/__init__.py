"""Datasets, tables and their metadata in the local BigQuery."""
