"""The methods that are compared: searches, policies, and the official recipe."""
