"""The jobs that a user launches: classify and embed, in every lane."""
