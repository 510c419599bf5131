"""The `export` command: answers as files."""
