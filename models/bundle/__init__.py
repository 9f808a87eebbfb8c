"""Bundles, which travel from trainer to service: folders of files with hashes, weights among them."""
