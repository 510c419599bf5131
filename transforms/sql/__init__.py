"""SQL text: sources, filters, the source query, tables and views."""
