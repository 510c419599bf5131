"""The local Dataflow."""
