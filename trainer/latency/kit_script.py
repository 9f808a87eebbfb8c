"""Times ONNX graphs in ONNX Runtime: many short interleaved rounds, each beside a probe of the processor's clock.

Two lives: `pnag latency measure` imports it, and a kit carries it to a device where there is nothing but Python 3.9+,
onnxruntime and numpy, as a program:

    python measure.py                       # writes measurements.json; run it again to go on after a break

Why so: going round all graphs lets a slow moment cost every graph one round, instead of one graph all. A processor also
changes its clock by 10-25 % within a second, and rare fast moments spoil a minimum as slow ones spoil a mean; a small
fixed matrix product (the *clock probe*) timed before and after each visit says how fast the clock was, and a layer's
time is scaled to the median clock. Of a round's runs the fastest counts, of all rounds the lower quartile. Measured
twice on the build machine, layers then repeat to 1.2 % where the plain minimum moved by 3.7 % (docs/latency.md).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

FORMAT = "pnag-measurements"
FORMAT_VERSION = 1

Sample = tuple[float, float]
"""A round's time in ms, and the clock probe's in ms then; 0 where the clock changed meanwhile or was not probed."""

QUANTILE = 0.25
AGREEMENT = 0.01
"""A graph is done early once its odd and its even rounds give the same time to within this fraction ..."""
MIN_ROUNDS = 24
"""... but not before this many rounds."""
CLOCK_AGREEMENT = 0.03
"""Probes before and after a visit that differ by more say nothing of the clock in between."""
PROBE = "clock"
SAVE_EVERY_S = 5.0
NOISY_ELSEWHERE_PERCENT = 10.0
NOISY_SPREAD = 0.25


class SetupError(ValueError):
    """The graphs cannot be timed as asked; the message says why."""


@dataclass(frozen=True)
class Setup:
    """How graphs are run."""

    threads: int = 1
    batch_size: int = 1
    execution_provider: str = "CPUExecutionProvider"
    precision: str = "fp32"

    @property
    def on_cpu(self) -> bool:
        """Whether the processor's clock has a bearing on the times."""
        return self.execution_provider == "CPUExecutionProvider"


@dataclass
class Item:
    """Something to time.

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
    """How long to go on.

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
    max_session_bytes: int = field(default_factory=lambda: session_memory())
    stop_after_s: float | None = None
    seed: int = 0
    min_rounds: int = MIN_ROUNDS


@dataclass
class Progress:
    """Told after each item's visit: rounds done and rounds still possible."""

    done: int
    total: int
    name: str


@dataclass
class HostLoad:
    """What else the machine did meanwhile, from /proc where there is one."""

    started: float = field(default_factory=time.time)
    _before: Any = None
    _load_before: Any = None
    _own_before: float = 0.0

    def __post_init__(self) -> None:
        self._before = _cpu_jiffies()
        self._load_before = _load_average()
        self._own_before = time.process_time()

    def report(self) -> dict[str, Any]:
        """JSON values; percentages are of one CPU."""
        report: dict[str, Any] = {
            "wall_s": round(time.time() - self.started, 1),
            "load_average_before": self._load_before,
            "load_average_after": _load_average(),
            "cpus": os.cpu_count(),
        }
        after = _cpu_jiffies()
        if self._before is not None and after is not None:
            ticks = os.sysconf("SC_CLK_TCK")
            wall = max(time.time() - self.started, 1e-9)
            busy, steal = ((b - a) / ticks for a, b in zip(self._before, after))  # noqa: B905 (3.9)
            own = time.process_time() - self._own_before
            report["busy_elsewhere_percent"] = round(max(0.0, busy - own) / wall * 100, 1)
            report["steal_percent"] = round(max(0.0, steal) / wall * 100, 1)
        return report


def time_interleaved(
    items: Sequence[Item],
    setup: Setup,
    plan: Plan,
    samples: dict[str, list[Sample]],
    *,
    probe: Callable[[], float] | None = None,
    save: Callable[[], None] = lambda: None,
    progress: Callable[[Progress], None] = lambda _: None,
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
    done = sum(_rounds_counted(samples.get(i.name, ()), plan) for i in items)
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
                        done -= _rounds_counted(times, plan)
                        fastest = min(run() for _ in range(plan.runs_per_round))
                        times.append((round(fastest, 6), _agreed(before, _clock(probe))))
                        done += _rounds_counted(times, plan)
                        progress(Progress(done, plan.rounds * len(items), item.name))
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


def _rounds_counted(samples: Sequence[Sample], plan: Plan) -> int:
    return plan.rounds if is_done(samples, plan) else len(samples)


def at_clock(samples: Sequence[Sample], clock_ms: float) -> list[float]:
    """Times scaled to the clock at which the probe takes `clock_ms`; unscaled where too few rounds know their clock."""
    scaled = [ms * clock_ms / clock for ms, clock in samples if clock > 0]
    return scaled if 3 * len(scaled) >= len(samples) else [ms for ms, _ in samples]


def lower_quartile(values: Sequence[float]) -> float:
    """A quarter of the values are below; linear in between."""
    return float(np.quantile(np.asarray(values, dtype=np.float64), QUANTILE))


def median_clock(samples: Mapping[str, Sequence[Sample]]) -> float:
    """The probe's median time in ms over all rounds that know it; 0 if none does."""
    clocks = [clock for times in samples.values() for _, clock in times if clock > 0]
    return statistics.median(clocks) if clocks else 0.0


def spread(values: Sequence[float]) -> float:
    """(median - lower quartile) / lower quartile."""
    low = lower_quartile(values)
    return (statistics.median(values) - low) / low


def _clock(probe: Callable[[], float] | None) -> float:
    if probe is None:
        return 0.0
    probe()
    return min(probe(), probe())


def _agreed(before: float, after: float) -> float:
    return round((before + after) / 2, 6) if abs(before - after) <= CLOCK_AGREEMENT * min(before, after) else 0.0


def open_session(item: Item, setup: Setup) -> Callable[[], float]:
    """A function that runs the item's graph once and gives the time in ms.

    Raises:
        SetupError: if the execution provider is not in this onnxruntime, or did not take the graph.
    """
    available = ort.get_available_providers()
    if setup.execution_provider not in available:
        raise SetupError(
            f"execution provider {setup.execution_provider!r} is not in this onnxruntime; it has {available}"
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = setup.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(item.load(), options, providers=[setup.execution_provider])
    if session.get_providers()[0] != setup.execution_provider:
        # ONNX Runtime falls back to the CPU without raising; its times would be another device's.
        raise SetupError(f"{setup.execution_provider} could not be started; onnxruntime fell back to the CPU")
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


@contextlib.contextmanager
def pinned(threads: int) -> Iterator[bool]:
    """Keep this process on as many CPUs as it has threads, where the system allows; yields whether it does."""
    try:
        before = os.sched_getaffinity(0)  # type: ignore[attr-defined,unused-ignore]
    except AttributeError:
        yield False
        return
    # From the top: the lowest CPU usually serves the interrupts.
    os.sched_setaffinity(0, sorted(before)[-threads:])
    try:
        yield True
    finally:
        os.sched_setaffinity(0, before)


def describe_device(setup: Setup, name: str | None = None) -> dict[str, Any]:
    """The device as the latency table records it; the host's name is left out on purpose."""
    processor = processor_name()
    short = setup.execution_provider.replace("ExecutionProvider", "")
    parts = [processor, f"{setup.threads} thread{'s' if setup.threads != 1 else ''}", f"ONNX Runtime {short}"]
    if setup.batch_size != 1:
        parts.append(f"batch {setup.batch_size}")
    if setup.precision != "fp32":
        parts.append(setup.precision)
    return {
        "name": name or ", ".join(parts),
        "processor": processor,
        "runtime": f"onnxruntime {ort.__version__}",
        "execution_provider": setup.execution_provider,
        "threads": setup.threads,
        "batch_size": setup.batch_size,
        "precision": setup.precision,
        "os": f"{platform.system()} {platform.release()}",
    }


def processor_name() -> str:
    """What the system says of its processor, e.g. `Intel Xeon Processor (family 6 model 207)`."""
    facts: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            facts.setdefault(key.strip(), value.strip())
    name = facts.get("model name") or facts.get("Model") or facts.get("Hardware")
    if not name:
        with contextlib.suppress(OSError):
            name = Path("/sys/firmware/devicetree/base/model").read_text(errors="replace").strip("\x00\n ")
    name = name or platform.processor() or platform.machine() or "unknown processor"
    name = re.sub(r"\s+", " ", re.sub(r"\((R|TM|tm)\)", "", name)).strip()
    if not re.search(r"\d", name) and "model" in facts:  # virtual machines hide the product's number
        name += f" (family {facts.get('cpu family', '?')} model {facts['model']})"
    return name


def session_memory() -> int:
    """Bytes that open sessions may take together: a quarter of what is free where the system says, else 400 MB."""
    with contextlib.suppress(OSError, AttributeError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) * 1024
        return min(free // 4, 4_000_000_000)
    return 400_000_000


def host_load_is_noisy(host_load: Mapping[str, Any]) -> bool:
    """Whether something else had a share of the machine that shows."""
    return bool(
        max(host_load.get("busy_elsewhere_percent", 0), host_load.get("steal_percent", 0)) > NOISY_ELSEWHERE_PERCENT
        or host_load.get("median_spread", 0) > NOISY_SPREAD
    )


def spread_report(samples: Mapping[str, Sequence[Sample]]) -> dict[str, Any]:
    """The part of the host's report that the rounds themselves tell."""
    clock = median_clock(samples)
    spreads = [spread(at_clock(times, clock)) for times in samples.values() if times]
    report = {"median_spread": round(statistics.median(spreads), 4)} if spreads else {}
    if clock:
        report["clock_probe_ms"] = round(clock, 6)
    return report


def pack_samples(samples: Sequence[Sample]) -> dict[str, list[float]]:
    """Rounds as a measurements file holds them."""
    return {"samples_ms": [ms for ms, _ in samples], "clock_ms": [clock for _, clock in samples]}


def unpack_samples(entry: Mapping[str, Any]) -> list[Sample]:
    """Undo `pack_samples`; nothing gives no rounds."""
    times = entry.get("samples_ms", [])
    return list(zip(times, entry.get("clock_ms", [0.0] * len(times))))  # noqa: B905 (3.9)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Whole or not at all: written beside, then renamed over."""
    descriptor, name = tempfile.mkstemp(prefix="." + path.name + ".", dir=str(path.parent))
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(document, file, indent=1, allow_nan=False)
            file.write("\n")
        os.chmod(name, 0o644)
        os.replace(name, str(path))
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


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


def _cpu_jiffies() -> tuple[float, float] | None:
    """(busy, stolen) ticks of all CPUs since boot."""
    try:
        numbers = [float(n) for n in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        user, nice, system, _idle, _iowait, irq, softirq, steal = numbers
    except (OSError, ValueError, IndexError):
        return None
    return user + nice + system + irq + softirq, steal


def _load_average() -> float | None:
    try:
        return round(os.getloadavg()[0], 2)
    except (OSError, AttributeError):
        return None


# ---- as a program, on the device -------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Time the graphs that lie beside this file; 0 done, 1 failed or not finished."""
    folder = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(
        description="Times the layers and networks of this kit and writes measurements.json. Run again to go on.",
        epilog="example: python measure.py --threads 4 --device-name 'Raspberry Pi 4, 4 threads'",
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of ONNX Runtime (default 1)")
    parser.add_argument("--execution-provider", default="CPUExecutionProvider", help="as onnxruntime names it")
    parser.add_argument("--rounds", type=int, default=Plan.rounds, help=f"at most (default {Plan.rounds})")
    parser.add_argument("--device-name", help="how the table should name this device (default: from the processor)")
    parser.add_argument("--stop-after-s", type=float, help="stop in good order after so many seconds")
    parser.add_argument("--out", type=Path, default=folder / "measurements.json")
    parser.add_argument("--make-weights", action="store_true", help="only write the weights, for run_perf_test.sh")
    asked = parser.parse_args(arguments)
    if asked.threads < 1 or asked.rounds < 1:
        parser.error("--threads and --rounds must be at least 1")
    kit = json.loads((folder / "kit.json").read_text())
    weights = kit.get("weights")
    if weights is not None and not (folder / weights["file"]).exists():
        make_weights(folder / weights["file"], weights["counts"])
    if asked.make_weights:
        return 0
    setup = Setup(asked.threads, kit["batch_size"], asked.execution_provider, kit["precision"])
    try:
        return _run_kit(folder, kit, setup, asked)
    except SetupError as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"\nstopped; {asked.out} holds what is done. Run again to go on.\n")
        return 1


def _run_kit(folder: Path, kit: dict[str, Any], setup: Setup, asked: argparse.Namespace) -> int:
    device = describe_device(setup, asked.device_name)
    document: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "space": kit["space"],
        "device": device,
        "calibration": kit["calibration"],
        "complete": False,
        "layers": {},
        "networks": {},
        "overhead": {},
        "host_load": None,
    }
    if asked.out.exists():
        before = json.loads(asked.out.read_text())
        if before.get("device") != device or before.get("space") != kit["space"]:
            raise SetupError(
                f"{asked.out} was measured on {before.get('device', {}).get('name')!r}, this is {device['name']!r}: "
                "move it away, or repeat its options"
            )
        document.update({key: before[key] for key in ("layers", "networks", "overhead")})
    load = HostLoad()
    document["measured_at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    groups = {"overhead": False, "layers": False, "networks": True}
    items, samples = [], {}
    for group, as_user in groups.items():
        for name, file in kit[group].items():
            path = folder / file
            if not path.exists():
                raise SetupError(f"{file} is missing from the kit; unpack it again")
            # Empty graphs are timed both ways: layers and networks have different overheads.
            user = as_user or name == "as_user"
            items.append(Item(f"{group}/{name}", kit["size_bytes"].get(file, 0), partial(str, path), user))
            samples[f"{group}/{name}"] = unpack_samples(document[group].get(name, {}))

    def save() -> None:
        for full, times in samples.items():
            group, _, name = full.partition("/")
            if times:
                document[group][name] = pack_samples(times)
        document["host_load"] = {**load.report(), **spread_report(samples)}
        write_json(asked.out, document)

    started = time.monotonic()

    def show(progress: Progress) -> None:
        if sys.stderr.isatty():
            spent = time.monotonic() - started
            left = spent / max(progress.done - begun, 1) * (progress.total - progress.done)
            sys.stderr.write(f"\r{progress.done}/{progress.total} rounds, at most {left / 60:.0f} min left   ")

    plan = Plan(rounds=asked.rounds, stop_after_s=asked.stop_after_s)
    begun = sum(_rounds_counted(times, plan) for times in samples.values())
    with pinned(setup.threads) as is_pinned:
        document["pinned"] = is_pinned
        probe = open_session(Item(PROBE, 0, partial(str, folder / kit[PROBE])), Setup()) if setup.on_cpu else None
        is_complete = time_interleaved(items, setup, plan, samples, probe=probe, save=save, progress=show)
    document["complete"] = is_complete
    save()
    if host_load_is_noisy(document["host_load"]):
        sys.stderr.write(f"\nwarning: the host was busy meanwhile: {document['host_load']}\n")
    sys.stdout.write(f"\n{asked.out}: {'complete' if is_complete else 'not complete yet; run again to go on'}\n")
    return 0 if is_complete else 1


if __name__ == "__main__":
    sys.exit(main())
