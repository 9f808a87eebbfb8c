"""A latency table learned from whole-network times alone: physical sums first, a Gaussian process for what is left."""
