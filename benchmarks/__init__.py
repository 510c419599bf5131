"""How fast imagebeam is, next to what a person would write instead: ``python -m benchmarks.run``."""
