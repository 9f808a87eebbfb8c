"""Costs of an architecture: latency tables, sums over layers or decisions, and the mask that keeps a budget."""
