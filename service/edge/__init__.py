"""Before the framework: connections, limits, keys, and answers that need no route."""
