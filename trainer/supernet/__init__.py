"""Trains the weights that all architectures of a space share, and scores architectures with them."""
