"""Offline: measures, trains, checks; reads files and writes files. Knows nothing of the service."""
