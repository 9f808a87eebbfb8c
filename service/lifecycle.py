"""Where the process stands between start and exit."""

from dataclasses import dataclass


@dataclass
class Lifecycle:
    """Shared by the server, which ends it, and `/readyz`, which says so."""

    is_draining: bool = False
    """The process is about to end: it still answers, but is not ready for more."""
