"""The running service: speed beside other servers, faults, soak."""
