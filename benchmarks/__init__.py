"""Benchmarks of imagebeam and of alternative implementations: ``python -m benchmarks.run``."""
