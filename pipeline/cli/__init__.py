"""The command line: dispatch, exit codes, and the small commands."""
