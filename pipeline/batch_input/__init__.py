"""Batch jobs on an input that the user already has: one job per run, whose output stays where the user wants it."""
