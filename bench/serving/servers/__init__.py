"""Other servers of the same bundle, each for an environment of its own."""
