"""Commands and jobs: the command line, settings, and a module per command."""
