"""The `search` command: nearest images by text, image or id."""
