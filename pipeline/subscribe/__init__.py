"""The `subscribe` command: link an Imagery Insights dataset."""
