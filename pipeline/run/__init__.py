"""Settings, checks and launch of a run, shared by classify and embed."""
