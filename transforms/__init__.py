"""Reusable Beam transforms and the pure logic and clients under them."""
