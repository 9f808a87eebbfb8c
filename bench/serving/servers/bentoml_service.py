"""The generator under BentoML: one worker, adaptive batching."""

import os
from typing import Any

import bentoml

from pnag.bench.serving.servers.served_bundle import ServedBundle


@bentoml.service(workers=int(os.environ["WORKERS"]), traffic={"timeout": 60})
class Pnag:
    def __init__(self) -> None:
        self._bundle = ServedBundle()

    @bentoml.api(
        route="/generate",
        batchable=True,
        max_batch_size=int(os.environ["MAX_BATCH_SIZE"]),
        max_latency_ms=60_000,
    )
    def generate(self, budgets_ms: list[float]) -> list[dict[str, Any]]:
        return self._bundle.answer(budgets_ms)
