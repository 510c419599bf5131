"""Check results, IAM roles and hints that explain an error of a Google API."""
