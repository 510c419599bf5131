"""The `preflight` command and the registry of checks that gates every paid command."""
