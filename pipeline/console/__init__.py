"""Console output: help, progress and the final report."""
