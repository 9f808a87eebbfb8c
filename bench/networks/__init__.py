"""Published networks as graphs, timed beside what a bundle answers."""
