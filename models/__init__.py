"""Architectures, their costs, and the networks over them; no torch but in the networks' own files."""
