"""Checks of a space, a file of records and a built network against what they say they are."""
