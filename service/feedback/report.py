"""One report from the field, and how many of them are kept for how long."""

from dataclasses import dataclass

MAX_REPORTS = 5_000
"""Kept for each bundle; older ones go."""

MAX_BUNDLES = 50
"""Whose reports are kept in this process; a version that nobody reports on any more makes room."""

TIMEOUT_S = 1.0
TTL_S = 90 * 86_400


@dataclass(frozen=True)
class FieldReport:
    """One network, measured by somebody."""

    encoding: str
    device: str
    latency_ms: float
    promised_ms: float
    """The bound that the bundle gives for it, at its default coverage."""
    reported_at: float
    """Seconds since 1970."""

    @property
    def ratio(self) -> float:
        """Measured over promised; above 1 the promise was broken."""
        return self.latency_ms / self.promised_ms
