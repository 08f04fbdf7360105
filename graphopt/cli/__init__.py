"""The command line, one command a file. Heavy imports stand inside commands: ``--help`` answers at once."""
