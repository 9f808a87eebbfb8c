"""Files that training reads: records, references, images."""
