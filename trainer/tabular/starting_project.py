"""The files of `pnag init DIR`: a search space with every key explained, and measurements that fit it."""

from pathlib import Path

import numpy as np

from pnag.models.errors import TrainingError
from pnag.models.files import write_atomic
from pnag.models.space.tabular import TableSpace
from pnag.trainer.tabular.space_file import parse_space

SPACE = """\
# Your search space: what a network of yours decides. `pnag validate` checks it; every scalar is read as text.
name: my-networks

# decision: its options, in the order in which you would build a network. Each is a column of measurements.csv.
decisions:
  stem: [conv3, conv7]
  op1: [conv3, conv5, skip]
  op2: [conv3, conv5, skip]

  # The long form. A decision that counts only under some options of earlier ones; its cell is blank otherwise.
  attention:
    options: ["yes", "no"]
    active_if: {op2: [conv3, conv5]}
    # label: Attention after the second operation     # for people
    # column: att                                     # if the column of the records has another name

# Combinations that do not exist: a rule matches when all of its parts do.
forbidden:
  - {op1: skip, op2: skip}

# What is better, where it is not accuracy (a fraction) or top1_percent:
# metric: {column: rmse, goal: minimise, unit: mm}

# Latency comes from the column latency_ms, or, without measurements, from the options:
#   op1: {options: {conv3: {latency_ms: 0.8}, conv5: {latency_ms: 1.9}, skip: {latency_ms: 0}}}
# costs: {latency_ms: 1.5}                            # what every network pays
"""

README = """\
# my-networks

space.yaml          what a network decides
measurements.csv    what you measured: one column per decision, accuracy (a fraction), latency_ms; invented, replace it

    pnag validate --space space.yaml --records measurements.csv
    pnag train --space space.yaml --records measurements.csv --out bundle
    pnag generate --bundle bundle --budget-ms 4
    pnag serve --bundle bundle
"""

FILES = ("space.yaml", "measurements.csv", "README.md")


def write_project(folder: Path) -> list[Path]:
    """Write the files; returns them.

    Raises:
        TrainingError: if one is there already: nothing is overwritten.
    """
    there = [name for name in FILES if (folder / name).exists()]
    if there:
        raise TrainingError(f"{folder / there[0]} is there already; nothing was written. Name another folder")
    contents = {"space.yaml": SPACE, "measurements.csv": _measurements(parse_space(SPACE)), "README.md": README}
    for name, content in contents.items():
        write_atomic(folder / name, content)
    return [folder / name for name in FILES]


def _measurements(space: TableSpace) -> str:
    """An invented measurement of every architecture of the starting space."""
    tokens_ND = space.all_architectures()
    assert tokens_ND is not None
    rng = np.random.default_rng(0)
    lines = [",".join([*(d.name for d in space.decisions), "accuracy", "latency_ms"])]
    gain = {"conv7": 0.02, "conv3": 0.03, "conv5": 0.045, "skip": 0.0, "yes": 0.015}
    cost = {"conv7": 0.9, "conv3": 0.7, "conv5": 1.6, "skip": 0.05, "yes": 0.6}
    for tokens_D in tokens_ND:
        values = [d.options[t] if t >= 0 else "" for d, t in zip(space.decisions, tokens_D, strict=True)]
        accuracy = 0.86 + sum(gain.get(str(v), 0.0) for v in values) + rng.normal(0, 0.001)
        latency_ms = 1.2 + sum(cost.get(str(v), 0.0) for v in values) * (1 + rng.normal(0, 0.01))
        lines.append(",".join([*map(str, values), f"{accuracy:.4f}", f"{latency_ms:.3f}"]))
    return "\n".join(lines) + "\n"
