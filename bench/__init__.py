"""Comparisons and benchmarks; runs from a checkout, never in the wheel."""
