"""Generates the reference pages and tables of docs/ from the declarations in the code."""
