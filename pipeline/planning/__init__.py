"""The `plan` command: estimate units, duration and cost of a run."""
