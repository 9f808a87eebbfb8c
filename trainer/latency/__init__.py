"""Measures a device and makes its latency table; calibration, bounds, drift, imports."""
