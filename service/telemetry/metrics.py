"""Metrics for Prometheus. Names are `pnag_<noun>_<unit>`; every label has few values, none of them a caller's text.

With several worker processes, prometheus-client shares the values through files in PROMETHEUS_MULTIPROC_DIR (set by
service/server.py before this module is imported), and any worker can answer for all.
"""

import os
from functools import partial
from pathlib import Path

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """All metrics of one application, in a registry of its own."""

    media_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the exposition, and nobody reads them
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        # -- requests
        self.request_seconds = histogram(
            "pnag_http_request_seconds",
            "Time from a request's headers to the end of its answer; its _count counts requests. "
            "cache: memory, redis, shared (with a request that asked the same before), miss, or - where there is none. "
            "status 499: the caller hung up.",
            ["route", "status", "cache"],
            buckets=_SECONDS,
        )
        self.budget_share = histogram(
            "pnag_budget_share",
            "Budgets asked, as a share of the bundle's range: 0 is its fastest network, 1 its largest.",
            ["bundle"],
            buckets=(0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1),
        )
        self.infeasible = counter("pnag_infeasible_total", "Budgets that no network of the bundle keeps.", ["bundle"])
        # -- inference
        self.waiting = gauge(
            "pnag_queue_waiting", "Budgets that wait for a run.", ["bundle"], multiprocess_mode="livesum"
        )
        self.wait_seconds = histogram(
            "pnag_queue_wait_seconds", "How long the first budget of each run had waited.", ["bundle"], buckets=_SECONDS
        )
        self.batch_size = histogram(
            "pnag_batch_size", "Budgets in one run of the generator.", ["bundle"], buckets=(1, 2, 4, 8, 16, 32, 64, 128)
        )
        self.inference_seconds = histogram("pnag_inference_seconds", "Time of one run.", ["bundle"], buckets=_SECONDS)
        self.shed = counter("pnag_shed_total", "Budgets refused because too many were waiting.", ["bundle"])
        # -- caches
        self.redis_lookups = counter(
            "pnag_redis_lookups_total",
            "Look-ups in Redis by result (hit, miss, invalid: a value that is not ours, down: it was not asked).",
            ["result"],
        )
        self.redis_errors = counter("pnag_redis_errors_total", "Failures of Redis by operation.", ["operation"])
        self.redis_up = gauge(
            "pnag_redis_up",
            "1 if Redis is in use, 0 while the circuit breaker keeps away from it; absent without Redis.",
            [],
            multiprocess_mode="livemin",
        )
        # -- bundles
        self.bundle_info = gauge(
            "pnag_bundle_info",
            "1 for each loaded bundle, 0 for one that was loaded before.",
            ["bundle", "version", "space", "device"],
            multiprocess_mode="livemax",
        )
        self.table_measured = gauge(
            "pnag_latency_table_measured_timestamp_seconds",
            "When the bundle's latency table was measured: its age is time() minus this. NaN once it is not loaded.",
            ["bundle", "version"],
            multiprocess_mode="livemax",
        )
        self.reloads = counter(
            "pnag_bundle_reloads_total",
            "Folders looked at on reload, by result (loaded, refused, removed).",
            ["result"],
        )
        self.refused = gauge(
            "pnag_bundles_refused",
            "Folders whose bundle is not served because something is wrong with it; the log says what.",
            [],
            multiprocess_mode="livemax",
        )
        # -- callers
        self.auth_failures = counter(
            "pnag_auth_failures_total",
            "Requests without the key they need, by reason (missing, unknown, scope).",
            ["reason"],
        )
        self.rate_limited = counter("pnag_rate_limited_total", "Requests refused by the rate limit.")

    def exposition(self) -> bytes:
        """The registry in Prometheus's text format; of all workers, if there are several."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self.registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


def forget_dead_workers() -> None:
    """Drop what a dead worker said of itself, such as how many were waiting; called when another takes its place."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if folder is None:
        return
    for pid in {int(path.stem.rpartition("_")[2]) for path in Path(folder).glob("gauge_live*.db")}:
        if not Path(f"/proc/{pid}").exists():
            mark_process_dead(pid)  # type: ignore[no-untyped-call]
