"""What devices in the field report, kept and summed up."""
