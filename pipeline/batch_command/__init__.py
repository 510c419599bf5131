"""The `batch` command: runs of the batch lane, and jobs on an input that the user has."""
