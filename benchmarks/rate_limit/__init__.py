"""Simulation of the rate limiter."""
