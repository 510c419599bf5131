"""The model of the local cloud: measures pixels and fills response schemas deterministically."""
