"""Finds the front of a space and teaches the policy to write it down."""
