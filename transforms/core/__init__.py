"""Records, counts, identifiers and errors. Imports nothing else of imagebeam."""
