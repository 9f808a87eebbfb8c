"""Search spaces: decisions, encodings, layers, and the spaces that ship."""
