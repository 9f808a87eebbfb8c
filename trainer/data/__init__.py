"""What training reads of spaces with layers: records, references, images."""
