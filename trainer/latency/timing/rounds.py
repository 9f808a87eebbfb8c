"""Many short interleaved rounds over ONNX graphs in ONNX Runtime, each beside a probe of the processor's clock.

Going round all graphs lets a slow moment cost every graph one round, instead of one graph all.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from pnag.models.errors import LatencyTableError
from pnag.trainer.latency.timing.host import Setup, session_memory
from pnag.trainer.latency.timing.samples import Sample, agreed_clock, at_clock, lower_quartile

AGREEMENT = 0.01
"""A graph is done early once its odd and its even rounds give the same time to within this fraction ..."""
MIN_ROUNDS = 24
"""... but not before this many rounds."""
SAVE_EVERY_S = 5.0


@dataclass
class Item:
    """A graph to time.

    Attributes:
        name: of the layer or architecture.
        size_bytes: of the model; decides how many sessions are held at once.
        load: gives the serialised ONNX model, or its path.
        as_user: time a plain `session.run` from numpy to numpy, as a user of a whole network sees it. Otherwise input
            and output stay where they are, as between two layers.
    """

    name: str
    size_bytes: int
    load: Callable[[], Any]
    as_user: bool = False


@dataclass
class Plan:
    """The length of a measurement.

    Attributes:
        rounds: at most so many per item.
        runs_per_round: per visit, after one run that only warms up; the fastest is the round's time.
        visits: rounds before another chunk's turn, where the sessions do not all fit into memory.
        max_session_bytes: how much the open sessions' models may take together.
        stop_after_s: stop in good order, to be resumed later; None means never.
        min_rounds: no graph stops earlier, however steady.
    """

    rounds: int = 40
    runs_per_round: int = 3
    visits: int = 10
    max_session_bytes: int = field(default_factory=session_memory)
    stop_after_s: float | None = None
    seed: int = 0
    min_rounds: int = MIN_ROUNDS


@dataclass
class RoundsDone:
    """Rounds done and rounds still possible, told after each visit to an item."""

    done: int
    total: int
    name: str


def time_interleaved(
    items: Sequence[Item],
    setup: Setup,
    plan: Plan,
    samples: dict[str, list[Sample]],
    *,
    probe: Callable[[], float] | None = None,
    save: Callable[[], None] = lambda: None,
    progress: Callable[[RoundsDone], None] = lambda _: None,
    open_item: Callable[[Item, Setup], Callable[[], float]] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Add rounds to `samples`, by item name; what is there already counts, so a break costs nothing.

    `probe` runs the clock probe once and gives its time in ms; without it the clock is taken as constant. Returns
    whether every item is done, which is not so only after `plan.stop_after_s`.
    """
    open_item = open_item or open_session
    order = random.Random(plan.seed)  # noqa: S311
    started = last_save = clock()
    opened: dict[str, Callable[[], float]] = {}
    done = sum(rounds_counted(samples.get(i.name, ()), plan) for i in items)
    try:
        while True:
            pending = [i for i in items if not is_done(samples.get(i.name, ()), plan)]
            if not pending:
                return True
            for chunk in _chunks(pending, plan.max_session_bytes):
                names = {i.name for i in chunk}
                for name in [n for n in opened if n not in names]:
                    del opened[name]
                for _ in range(plan.visits):
                    chunk = [i for i in chunk if not is_done(samples.get(i.name, ()), plan)]
                    order.shuffle(chunk)
                    for item in chunk:
                        if plan.stop_after_s is not None and clock() - started > plan.stop_after_s:
                            return False
                        if item.name not in opened:
                            opened[item.name] = open_item(item, setup)
                        run = opened[item.name]
                        before = _clock(probe)
                        run()  # the caches still hold another graph
                        times = samples.setdefault(item.name, [])
                        done -= rounds_counted(times, plan)
                        fastest = min(run() for _ in range(plan.runs_per_round))
                        times.append((round(fastest, 6), agreed_clock(before, _clock(probe))))
                        done += rounds_counted(times, plan)
                        progress(RoundsDone(done, plan.rounds * len(items), item.name))
                        if clock() - last_save > SAVE_EVERY_S:
                            save()
                            last_save = clock()
    finally:
        save()


def is_done(samples: Sequence[Sample], plan: Plan) -> bool:
    """Enough rounds, or enough of them for odd and even ones to tell the same time."""
    if len(samples) >= plan.rounds:
        return True
    if len(samples) < max(2, min(plan.min_rounds, plan.rounds)):
        return False
    odd, even = (lower_quartile(at_clock(half, 1.0)) for half in (samples[::2], samples[1::2]))
    return abs(odd - even) <= AGREEMENT * min(odd, even)


def rounds_counted(samples: Sequence[Sample], plan: Plan) -> int:
    return plan.rounds if is_done(samples, plan) else len(samples)


def _clock(probe: Callable[[], float] | None) -> float:
    if probe is None:
        return 0.0
    probe()
    return min(probe(), probe())


def open_session(item: Item, setup: Setup) -> Callable[[], float]:
    """A function that runs the item's graph once and gives the time in ms.

    Raises:
        LatencyTableError: if the execution provider is not in this onnxruntime, or did not take the graph.
    """
    available = ort.get_available_providers()
    if setup.execution_provider not in available:
        raise LatencyTableError(
            f"execution provider {setup.execution_provider!r} is not in this onnxruntime; it has {available}"
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = setup.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(item.load(), options, providers=[setup.execution_provider])
    if session.get_providers()[0] != setup.execution_provider:
        # ONNX Runtime falls back to the CPU without raising; its times would be another device's.
        raise LatencyTableError(f"{setup.execution_provider} could not be started; onnxruntime fell back to the CPU")
    source = session.get_inputs()[0]
    shape = [size if isinstance(size, int) else setup.batch_size for size in source.shape]
    image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    now = time.perf_counter_ns

    if item.as_user:
        feed = {source.name: image}

        def run() -> float:
            start = now()
            session.run(None, feed)
            return (now() - start) / 1e6

        return run

    target = session.get_outputs()[0]
    binding = session.io_binding()
    given = ort.OrtValue.ortvalue_from_numpy(image)
    taken = ort.OrtValue.ortvalue_from_numpy(np.zeros(target.shape, dtype=np.float32))
    binding.bind_ortvalue_input(source.name, given)
    binding.bind_ortvalue_output(target.name, taken)
    # The binding does not keep them alive, and they do not copy: freed memory would be read and written.
    kept = (image, given, taken)

    def run_bound() -> float:
        assert kept
        start = now()
        session.run_with_iobinding(binding)
        return (now() - start) / 1e6

    return run_bound


def make_weights(path: Path, counts: Sequence[int]) -> None:
    """Write the random weights that the graphs of a kit refer to: counts[k] numbers of standard deviation 2^-k."""
    block = np.random.default_rng(0).standard_normal(1 << 16).astype("<f4")
    descriptor, name = tempfile.mkstemp(prefix="." + path.name + ".", dir=str(path.parent))
    with os.fdopen(descriptor, "wb") as file:
        for exponent, count in enumerate(counts):
            for start in range(0, count, len(block)):
                part = np.roll(block, -(start // len(block))) * np.float32(2.0**-exponent)
                file.write(part[: count - start].tobytes())
    os.replace(name, str(path))


def _chunks(items: Sequence[Item], max_bytes: int) -> Iterator[list[Item]]:
    chunk: list[Item] = []
    size = 0
    for item in items:
        # Prepacked weights and the arena: a session holds its model about twice, and no less than a megabyte.
        needed = 2 * item.size_bytes + 1_000_000
        if chunk and size + needed > max_bytes:
            yield chunk
            chunk, size = [], 0
        chunk.append(item)
        size += needed
    if chunk:
        yield chunk
