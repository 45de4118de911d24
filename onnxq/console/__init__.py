"""The command line: options, terminal, where results go."""
