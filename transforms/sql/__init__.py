"""SQL text: sources, filters, the due query, tables and views."""
