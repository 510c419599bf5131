"""HTTP, faults, counters, access and tokens, shared by all services of the local cloud."""
