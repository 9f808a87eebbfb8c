"""What travels from trainer to service: a folder of files with hashes, weights among them."""
