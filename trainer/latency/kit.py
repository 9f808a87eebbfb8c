"""The device kit: a zip for a device that has no PNAG, with layer and network graphs and a script to time them.

The graphs carry no weights: they refer to one file of random numbers that the script writes on the device, so a kit of
a hundred layers and fifty networks is a few hundred kB.
"""

import ast
import csv
import io
import json
import shlex
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pnag.models import errors
from pnag.models.cost.additive import macs_cost
from pnag.models.files import write_atomic
from pnag.models.space.layers import Layer
from pnag.models.space.search_space import SearchSpace
from pnag.trainer.latency import graphs
from pnag.trainer.latency.importers import PERF_TEST_MARK
from pnag.trainer.latency.networks import stratified
from pnag.trainer.latency.quantize import quantize
from pnag.trainer.latency.timing import host, measurements, rounds, samples, script
from pnag.trainer.latency.timing.measurements import AS_USER, BOUND

SCRIPT, MANIFEST, WEIGHTS = "measure.py", "kit.json", "weights.bin"
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time stamp of every file inside, so that equal kits are equal bytes."""


@dataclass(frozen=True)
class KitOptions:
    """The content of a kit beside all layers."""

    num_calibration: int = 10
    num_bounding: int = 40
    batch_size: int = 1
    precision: str = "fp32"
    seed: int = 0


def write_kit(space: SearchSpace, path: Path, options: KitOptions) -> dict[str, Any]:
    """Write the zip, whole or not at all; gives what it holds as plain values."""
    layers = {layer.key: [layer] for layer in space.distinct_layers()}
    calibrating, bounding = choose_networks(space, options)
    networks = {encoding: space.layers(encoding) for encoding in (*calibrating, *bounding)}
    # Quantised weights are part of the graph, and a quarter of the size.
    shared = None
    if options.precision == "fp32":
        shared = graphs.SharedWeights.for_chains(WEIGHTS, [*layers.values(), *networks.values()])
    files: dict[str, bytes] = {}
    sizes: dict[str, int] = {}

    def add(name: str, chain: Sequence[Layer]) -> str:
        file = f"graphs/{name}.onnx"
        model = graphs.chain_graph(chain, batch_size=options.batch_size, weights=shared)
        files[file] = model.SerializeToString() if shared else quantize(model)
        sizes[file] = 4 * sum(layer.params for layer in chain)
        return file

    files["graphs/empty.onnx"] = graphs.empty_graph().SerializeToString()
    files["graphs/clock.onnx"] = graphs.clock_graph().SerializeToString()
    manifest: dict[str, Any] = {
        "space": space.name,
        "batch_size": options.batch_size,
        "precision": options.precision,
        "clock": "graphs/clock.onnx",
        "weights": {"file": f"graphs/{WEIGHTS}", "counts": shared.counts} if shared else None,
        "overhead": {BOUND: "graphs/empty.onnx", AS_USER: "graphs/empty.onnx"},
        "layers": {key: add(f"layer-{i:04d}", chain) for i, (key, chain) in enumerate(layers.items())},
        "networks": {e: add(f"network-{i:04d}", chain) for i, (e, chain) in enumerate(networks.items())},
        "calibration": calibrating,
        "size_bytes": sizes,
    }
    files[MANIFEST] = (json.dumps(manifest, indent=1) + "\n").encode()
    files[SCRIPT] = _script().encode()
    files["README.md"] = _readme(manifest).encode()
    files["models.csv"] = _models_csv(manifest).encode()
    files["run_perf_test.sh"] = _perf_test_script(manifest).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), content, zipfile.ZIP_DEFLATED)
    write_atomic(path, buffer.getvalue())
    return manifest


def choose_networks(space: SearchSpace, options: KitOptions) -> tuple[list[str], list[str]]:
    """Networks to calibrate and to bound with, spread over MACs: nothing is known of the device yet."""
    cost, rng = macs_cost(space), np.random.default_rng(options.seed)
    calibrating = stratified(space, cost, options.num_calibration, rng, with_cheapest=True)
    return calibrating, stratified(space, cost, options.num_bounding, rng, exclude=calibrating)


def _script() -> str:
    """The files of `timing` as one program that runs alone: in the order of their imports, without these."""
    parts = [f'"""{script.__doc__}"""\n\nfrom __future__ import annotations\n']
    for module in (errors, samples, host, rounds, measurements, script):
        source = Path(str(module.__file__)).read_text(encoding="utf-8")
        lines = source.splitlines(keepends=True)
        for node in ast.parse(source).body:
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith(("__future__", "pnag.")):
                lines[node.lineno - 1 : node.end_lineno] = [""] * len(lines[node.lineno - 1 : node.end_lineno])
        parts += ["\n\n", *lines]
    return "".join(parts)


def _models_csv(manifest: dict[str, Any]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["group", "file", "name"])
    for group in ("overhead", "layers", "networks"):
        writer.writerows([group, file, name] for name, file in manifest[group].items())
    return text.getvalue()


def _perf_test_script(manifest: dict[str, Any]) -> str:
    space, batch_size, precision = manifest["space"], manifest["batch_size"], manifest["precision"]
    head = f"{PERF_TEST_MARK}space={space} batch_size={batch_size} precision={precision}"
    calibrating = "\n".join(f"echo {shlex.quote(f'### calibration {e}')}" for e in manifest["calibration"])
    missing = f'echo "graphs/{WEIGHTS} is missing: python measure.py --make-weights" >&2; exit 1'
    need_weights = f"test -f graphs/{WEIGHTS} || {{ {missing}; }}" if manifest["weights"] else ""
    return f"""#!/bin/sh
# Times every graph of models.csv with ONNX Runtime's own onnxruntime_perf_test, pass after pass:
#   PERF_TEST=./onnxruntime_perf_test sh run_perf_test.sh > perf_test.txt
# On a phone: first write graphs/{WEIGHTS} on any computer, by `python measure.py --make-weights`; then push the folder.
set -eu
cd "$(dirname "$0")"
PERF_TEST=${{PERF_TEST:-onnxruntime_perf_test}}
PROVIDER=${{PROVIDER:-cpu}}
THREADS=${{THREADS:-1}}
PASSES=${{PASSES:-8}}
REPEATS=${{REPEATS:-20}}
{need_weights}
echo "{head} threads=$THREADS provider=$PROVIDER"
{calibrating}
pass=0
while [ "$pass" -lt "$PASSES" ]; do
  tail -n +2 models.csv | while IFS=, read -r group file name; do
    name=${{name#\\"}}
    echo "### $group ${{name%\\"}}"
    "$PERF_TEST" -e "$PROVIDER" -m times -r "$REPEATS" -x "$THREADS" -y 1 -o 99 -s -I "$file" </dev/null || true
  done
  pass=$((pass + 1))
done
"""


def _readme(manifest: dict[str, Any]) -> str:
    return f"""# A PNAG measuring kit for {manifest["space"]}

{len(manifest["layers"])} layers and {len(manifest["networks"])} networks as ONNX graphs,
batch {manifest["batch_size"]}, {manifest["precision"]}.
Needs Python 3.9 or newer with `onnxruntime` and `numpy`; nothing of PNAG.

    pip install onnxruntime numpy
    python measure.py --threads 1

It goes round all graphs many times, writes `measurements.json` as it goes, and takes a few minutes on a laptop. Break
it off at will: the same command goes on. `python measure.py --help` lists threads, execution provider and device name.
Keep the device as it will be when it serves: same power mode, nothing else running.

Bring `measurements.json` back:

    pnag latency import measurements.json --space {manifest["space"]} --out latency_table.json

Where there is no Python (phones), `run_perf_test.sh` times the graphs of `models.csv` with ONNX Runtime's own
`onnxruntime_perf_test`; what it prints is imported the same way.
"""
