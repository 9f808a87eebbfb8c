"""What an architecture is and costs, and the networks over it; no torch but in the networks' own files."""
