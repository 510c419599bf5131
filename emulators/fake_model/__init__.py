"""The model of the local cloud: measures pixels and fills any answer schema deterministically."""
