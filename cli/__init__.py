"""The command line. Knows everything, and nothing knows it."""
