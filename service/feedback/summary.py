"""Store and summary of reports from the field: kept, counted, and never used for an answer by themselves.

Whoever may ask may report, so a report is a claim. The last few thousand for each bundle are kept: in Redis where there
is one (all replicas see the same), else in PNAG_FEEDBACK_FILE, else in this process; the metric outlives the last.
"""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Protocol

from prometheus_client import Histogram

from pnag.service.feedback.report import MAX_BUNDLES, MAX_REPORTS, TIMEOUT_S, FieldReport
from pnag.service.settings import Settings, SettingsError
from pnag.service.telemetry.metrics import Metrics


@dataclass(frozen=True)
class Summary:
    """Shares of kept and broken promises, by the reports that are kept."""

    num_reports: int
    over_fraction: float | None
    """Share of reports over the bound; None without reports."""
    median_ratio: float | None

    @classmethod
    def of(cls, reports: Sequence[FieldReport]) -> "Summary":
        """Summary of some reports."""
        if not reports:
            return cls(0, None, None)
        ratios = [report.ratio for report in reports]
        return cls(len(ratios), sum(ratio > 1 for ratio in ratios) / len(ratios), median(ratios))


class ReportStore(Protocol):
    """A place that keeps reports, by the digest of their bundle."""

    async def add(self, digest: str, report: FieldReport) -> None:
        """Keep one more, and let the oldest go if there are too many."""

    async def all(self, digest: str) -> list[FieldReport]:
        """Read those that are kept, the newest first."""

    async def close(self) -> None:
        """Close what it holds open."""


class LocalReports:
    """In SQLite, in this process's memory or in a file: bounded, indexed.

    Raises:
        SettingsError: if the file cannot be used.
    """

    def __init__(self, path: str = ":memory:", *, max_reports: int = MAX_REPORTS) -> None:
        self._max_reports = max_reports
        try:
            self._database = sqlite3.connect(path, timeout=TIMEOUT_S, isolation_level=None, check_same_thread=False)
            # Several workers may share a file; and a report does not wait for the disk, as it would without these two.
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS reports "
                "(id INTEGER PRIMARY KEY, digest TEXT NOT NULL, report TEXT NOT NULL)"
            )
            self._database.execute("CREATE INDEX IF NOT EXISTS by_digest ON reports (digest, id)")
        except sqlite3.Error as exc:
            raise SettingsError(
                f"PNAG_FEEDBACK_FILE: {path} cannot be used ({exc}); name a file in a folder that can be written to"
            ) from None

    async def add(self, digest: str, report: FieldReport) -> None:
        """Keep one more."""
        self._database.execute(
            "INSERT INTO reports (digest, report) VALUES (?, ?)", (digest, json.dumps(asdict(report)))
        )
        self._database.execute(
            "DELETE FROM reports WHERE digest = ? AND id <= "
            "(SELECT id FROM reports WHERE digest = ? ORDER BY id DESC LIMIT 1 OFFSET ?)",
            (digest, digest, self._max_reports),
        )
        self._database.execute(
            "DELETE FROM reports WHERE digest NOT IN "
            "(SELECT digest FROM reports GROUP BY digest ORDER BY max(id) DESC LIMIT ?)",
            (MAX_BUNDLES,),
        )

    async def all(self, digest: str) -> list[FieldReport]:
        """Read those that are kept, the newest first."""
        rows = self._database.execute("SELECT report FROM reports WHERE digest = ? ORDER BY id DESC", (digest,))
        return [FieldReport(**json.loads(text)) for (text,) in rows]

    async def close(self) -> None:
        """Forget everything, if it was in memory."""
        self._database.close()


class Feedback:
    """The store of reports, and the metric of those that came to this process."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.store = _store(settings)
        self._ratio = Histogram(
            "pnag_feedback_ratio",
            "Networks measured in the field: measured latency as a share of the bundle's promised bound; over 1 the "
            "promise was broken.",
            ["bundle"],
            buckets=(0.5, 0.7, 0.8, 0.9, 0.95, 1, 1.05, 1.1, 1.25, 1.5, 2),
            registry=metrics.registry,
        )

    async def add(self, bundle: str, digest: str, report: FieldReport) -> None:
        """Keep and count one report.

        Raises:
            NotReadyError: if it cannot be kept now; then it is not counted either.
        """
        await self.store.add(digest, report)
        self._ratio.labels(bundle).observe(report.ratio)


def _store(settings: Settings) -> ReportStore:
    if settings.redis_url is None:
        return LocalReports(str(settings.feedback_file or ":memory:"))
    from pnag.service.feedback.redis_store import SharedReports  # 6 MB that a service without Redis need not hold

    return SharedReports(settings.redis_url.get_secret_value(), settings.redis_namespace)
