"""The `preflight` command and its checks."""
