"""What an architecture is: decisions, encodings, layers, and the spaces that ship."""
