"""Times the graphs of a device kit where there is nothing but Python 3.9 or newer, onnxruntime and numpy.

python measure.py                       # writes measurements.json; run it again to go on after a break
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pnag.models.errors import LatencyTableError
from pnag.trainer.latency.timing.host import Setup, describe_device, host_load_is_noisy
from pnag.trainer.latency.timing.measurements import AS_USER, Measurements
from pnag.trainer.latency.timing.rounds import Item, Plan, RoundsDone, make_weights


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
        return _measure_kit(folder, kit, setup, asked)
    except LatencyTableError as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"\nstopped; {asked.out} holds what is done. Run again to go on.\n")
        return 1


def _measure_kit(folder: Path, kit: dict[str, Any], setup: Setup, asked: argparse.Namespace) -> int:
    measurements = Measurements.resume(asked.out, kit["space"], describe_device(setup, asked.device_name))
    measurements.calibration = kit["calibration"]
    items = []
    for group in ("overhead", "layers", "networks"):
        for name, file in kit[group].items():
            if not (folder / file).exists():
                raise LatencyTableError(f"{file} is missing from the kit; unpack it again")
            # Empty graphs are timed both ways: layers and networks have different overheads.
            as_user = group == "networks" or name == AS_USER
            size_bytes = kit["size_bytes"].get(file, 0)
            items.append(Item(f"{group}/{name}", size_bytes, partial(str, folder / file), as_user))
    started, begun = time.monotonic(), 0

    def show(progress: RoundsDone) -> None:
        nonlocal begun
        begun = begun or progress.done
        if sys.stderr.isatty():
            left = (time.monotonic() - started) / max(progress.done - begun, 1) * (progress.total - progress.done)
            sys.stderr.write(f"\r{progress.done}/{progress.total} rounds, at most {left / 60:.0f} min left   ")

    plan = Plan(rounds=asked.rounds, stop_after_s=asked.stop_after_s)
    probe = partial(str, folder / kit["clock"])
    is_complete = measurements.measure(items, setup, plan, probe, save_to=asked.out, progress=show)
    if host_load_is_noisy(measurements.host_load or {}):
        sys.stderr.write(f"\nwarning: the host was busy meanwhile: {measurements.host_load}\n")
    sys.stdout.write(f"\n{asked.out}: {'complete' if is_complete else 'not complete yet; run again to go on'}\n")
    return 0 if is_complete else 1


if __name__ == "__main__":
    sys.exit(main())
