"""Benchmarks of the engine: implementations, scenarios, targets."""
