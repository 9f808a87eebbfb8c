"""Learns accuracy from records, and how far off that is."""
