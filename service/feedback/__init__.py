"""Reports of devices in the field, kept and summed up."""
