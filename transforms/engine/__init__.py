"""The engine of a worker process: call the model within rate limit and budget, and record the answers."""
