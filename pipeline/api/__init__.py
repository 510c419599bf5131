"""The Python functions: keyword arguments as flags."""
