"""Accuracy of an architecture: features of it, and the evaluator's model over them."""
