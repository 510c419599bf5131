"""Runs of the batch lane: state in the work directory, and the supervisor that follows their jobs."""
