"""HTTP, faults, counters, access rules and tokens, shared by all services of the local cloud."""
