"""The sample dataset: photographs and tables shaped like Imagery Insights."""
