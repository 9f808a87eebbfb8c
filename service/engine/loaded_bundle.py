"""One bundle, ready to answer: its generator, the queue in front of it, and the networks it has named by id."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from cachetools import LRUCache

from pnag.models.answer.question import Answer, Query
from pnag.models.answer.runtime import OnnxGenerator
from pnag.models.bundle.bundle import Bundle
from pnag.models.errors import BudgetError, BundleError, InfeasibleBudgetError
from pnag.models.space.search_space import Architecture
from pnag.service.contract.problems import OverloadedError
from pnag.service.engine.inference_queue import InferenceQueue
from pnag.service.settings import Settings
from pnag.service.telemetry.metrics import Metrics

T = TypeVar("T")

MAX_RECENT = 20_000
"""Answered networks that each bundle remembers by id, beside those of its front."""

SELF_TEST_TOLERANCE = 1e-3
"""Accuracy (a fraction) by which an answer may miss the recorded one: processors differ a little."""


class LoadedBundle:
    """Answer for one bundle. Nothing in here refers back to it: when the last request lets go, it is freed at once."""

    def __init__(
        self, generators: Sequence[OnnxGenerator], executor: Executor, settings: Settings, metrics: Metrics
    ) -> None:
        self.generator = generators[0]
        self.bundle: Bundle = self.generator.bundle
        self.name, self.version, self.digest = self.bundle.name, self.bundle.version, self.bundle.digest
        self.space = self.bundle.space
        self.device = self.bundle.latency_table.device.name
        self.default_coverage = self.bundle.latency_table.default_coverage
        self._executor = executor
        self._infeasible = metrics.infeasible.labels(self.name)
        self._shed = metrics.shed.labels(self.name)
        self._budget_share = metrics.budget_share.labels(self.name)
        self._queue = _queue(generators, executor, settings, metrics)
        architectures = [Architecture(self.space.name, self.space.spell(row_D)) for row_D in self.bundle.front_FD]
        self._front = {architecture.id: architecture.encoding for architecture in architectures}
        self._recent: LRUCache[str, str] = LRUCache(MAX_RECENT)

    async def generate(self, query: Query) -> Answer:
        """Answer one query, together with those that wait beside it.

        Raises:
            BudgetError: as the runtime does.
            OverloadedError: if too many wait.
        """
        try:
            result = await self._queue.ask(query)
        except OverloadedError:
            self._shed.inc()
            raise
        low_ms, high_ms = self.generator.range_ms
        self._budget_share.observe((query.budget_ms - low_ms) / max(high_ms - low_ms, 1e-9))
        if isinstance(result, BudgetError):
            if isinstance(result, InfeasibleBudgetError):
                self._infeasible.inc()
            raise result
        return result

    async def run(self, call: Callable[[], T]) -> T:
        """Ask the generator anything else, on the same threads: requests must not fight over the cores."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    def remember(self, architecture_id: str, encoding: str) -> None:
        """Keep an answered network, so that it can be looked up by its id."""
        self._recent[architecture_id] = encoding

    def encoding_of(self, architecture_id: str) -> str | None:
        """The network behind an id, if it is on the front or was answered lately."""
        return self._front.get(architecture_id) or self._recent.get(architecture_id)

    @property
    def table_measured_at(self) -> datetime | None:
        """Time at which the latency table was measured; None where it does not say."""
        measured_at = self.bundle.latency_table.measured_at
        if measured_at is None:
            return None
        moment = datetime.fromisoformat(measured_at)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def open_bundle(folder: Path) -> OnnxGenerator:
    """The generator of a verified bundle that has answered its recorded questions as it should.

    Raises:
        BundleError: if a file is wrong, or an answer is worse than the recorded one.
    """
    generator = OnnxGenerator(Bundle.load(folder))
    self_test(generator)
    return generator


def self_test(generator: OnnxGenerator) -> None:
    """Ask what the bundle recorded at training (`self_test` in its manifest), and compare.

    Raises:
        BundleError: if an answer differs and is worse than the recorded network.
    """
    for entry in generator.bundle.manifest.get("self_test", ()):
        best = generator.generate(Query(entry["budget_ms"])).best
        if best.architecture.encoding == entry["encoding"]:
            continue
        (recorded,) = generator.predict([entry["encoding"]])
        if best.predicted.accuracy < recorded.predicted.accuracy - SELF_TEST_TOLERANCE:
            raise BundleError(
                f"{generator.bundle.name}: self-test at {entry['budget_ms']} ms gives {best.architecture.encoding}, "
                f"which is worse than the recorded {entry['encoding']}; train or copy the bundle again"
            )


def _queue(
    generators: Sequence[OnnxGenerator], executor: Executor, settings: Settings, metrics: Metrics
) -> InferenceQueue[Query, Answer | BudgetError]:
    """A queue in front of equal generators, each of which does one run at a time."""
    name = generators[0].bundle.name
    inference_seconds = metrics.inference_seconds.labels(name)
    batch_size, wait_seconds = metrics.batch_size.labels(name), metrics.wait_seconds.labels(name)
    waiting = metrics.waiting.labels(name)

    def timed(generator: OnnxGenerator) -> Callable[[Sequence[Query]], Sequence[Answer | BudgetError]]:
        def run(queries: Sequence[Query]) -> Sequence[Answer | BudgetError]:
            with inference_seconds.time():
                return generator.generate_many(queries)

        return run

    def on_start(size: int, waited_s: float, num_waiting: int) -> None:
        batch_size.observe(size)
        wait_seconds.observe(waited_s)
        waiting.set(num_waiting)

    return InferenceQueue(
        [timed(generator) for generator in generators],
        executor,
        max_batch_size=settings.max_batch_size,
        max_waiting=settings.max_waiting,
        max_waiting_busy=settings.max_waiting_busy,
        on_start=on_start,
    )
