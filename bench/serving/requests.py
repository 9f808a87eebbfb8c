"""Requests to a service under load: a mix of every kind of request, right and wrong."""

import itertools
import random
from collections.abc import Iterator
from functools import partial

from pnag.bench.serving.load import Request, request
from pnag.models.bundle.bundle import Bundle


def budget_range_ms(bundle: Bundle) -> tuple[float, float]:
    """Lowest and highest budget: feasible at any coverage, and below where every budget gets the same network."""
    return bundle.front[0].latency_ms * 1.3, bundle.front[-1].latency_ms


def mixed_requests(bundle: Bundle, seed: int = 0, key: str = "") -> Iterator[Request]:
    """Requests without end; the kind `bad` must be refused (4xx), all others answered with 200."""
    ask = partial(request, key=key)
    rng = random.Random(seed)
    low_ms, high_ms = budget_range_ms(bundle)
    known = [round(rng.uniform(low_ms, high_ms), 3) for _ in range(50)]
    bad = [
        ask("POST", "/generate", b'{"budget_ms": '),
        ask("POST", "/generate", {"budget_ms": -1}),
        ask("POST", "/generate", {"budget_ms": low_ms / 100}),
        ask("POST", "/generate", {"budget_ms": low_ms, "bundle": "nobody"}),
        ask("POST", "/predict", {"encoding": "nonsense"}),
        ask("GET", "/nowhere"),
    ]
    for number in itertools.count():
        budgets = [rng.uniform(low_ms, high_ms) for _ in range(4)]
        share = rng.random()
        if share < 0.5:
            yield "hit", ask("POST", "/generate", {"budget_ms": rng.choice(known)})
        elif share < 0.7:
            yield "miss", ask("POST", "/generate", {"budget_ms": budgets[0]})
        elif share < 0.8:
            yield "front", ask("GET", f"/pareto-front?points={10 + number % 40}")
        elif share < 0.9:
            yield "batch", ask("POST", "/generate/batch", {"budgets_ms": budgets})
        else:
            yield "bad", rng.choice(bad)
