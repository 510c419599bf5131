"""Batch runs: state in the work directory, the supervisor that follows their jobs, and the `batch` command."""
