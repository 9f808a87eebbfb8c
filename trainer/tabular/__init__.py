"""Spaces without layers: a YAML file of decisions and a table of measurements."""
