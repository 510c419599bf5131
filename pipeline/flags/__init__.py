"""Declarations of all flags, and how command line and imagebeam.yaml are read."""
