"""The engine of a worker process: calls the model within rate and budget, and records the answers."""
