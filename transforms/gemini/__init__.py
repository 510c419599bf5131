"""Gemini requests and responses, online and batch: built and parsed in one place."""
