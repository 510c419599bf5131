"""The local Cloud Storage: its JSON API on plain files."""
