"""Chooses what to measure next, and measures it with a supernet."""
