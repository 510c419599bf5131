"""Batch prediction jobs of the local cloud."""
