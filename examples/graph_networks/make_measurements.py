"""Write a table of invented graph networks, of the size and form of a published one: 26 206 rows.

    python make_measurements.py measurements.csv          # every row
    python make_measurements.py some.csv --rows 500       # a random part of the same table

One macro choice (`link`: how four operations are wired) and four operations with nine options each. The numbers follow
a made-up law with interactions and measurement noise: a stand-in for your own table, no statement about graph networks.
"""

import argparse
import csv
from pathlib import Path

import numpy as np

LINKS = ("0000", "0001", "0011", "0012", "0013", "0111", "0112", "0122", "0123")
OPERATIONS = ("gcn", "gat", "gin", "cheb", "sage", "arma", "k-gnn", "fc", "skip")
COLUMNS = ("link", "op1", "op2", "op3", "op4", "accuracy", "latency_ms", "params_m")
NUM_ROWS = 26_206


def measurements(num_rows: int = NUM_ROWS, seed: int = 0) -> list[tuple[str, str, str, str, str, float, float, float]]:
    """Rows in the order of COLUMNS; fewer rows are a random part of the whole table."""
    rng = np.random.default_rng(2024)
    all_choices = np.stack(np.meshgrid(*[np.arange(9)] * 5, indexing="ij"), axis=-1).reshape(-1, 5)
    choices = all_choices[np.sort(rng.permutation(len(all_choices))[:NUM_ROWS])]
    link, ops = choices[:, 0], choices[:, 1:]
    # Which operations read the raw, wide features: by the digits of the link.
    reads_input = np.array([[digit == "0" for digit in name] for name in LINKS])[link]
    depth = np.array([len(set(name)) for name in LINKS])[link]
    quality = np.array([1.0, 1.15, 0.75, 0.9, 1.05, 0.95, 0.85, 0.35, 0.1])
    cost = np.array([0.30, 0.85, 0.33, 0.62, 0.38, 0.74, 0.51, 0.16, 0.02])
    size = np.array([0.09, 0.10, 0.17, 0.27, 0.18, 0.36, 0.18, 0.09, 0.0])
    by_place = rng.normal(0, 0.12, (4, 9))
    by_link = rng.normal(0, 0.15, (9, 9))
    pairs = rng.normal(0, 0.12, (9, 9))
    score = quality[ops].sum(axis=1) + 0.5 * rng.normal(size=9)[link]
    score += sum(by_place[i, ops[:, i]] + by_link[link, ops[:, i]] for i in range(4))
    score += sum(pairs[ops[:, i], ops[:, j]] for i in range(4) for j in range(i + 1, 4))
    score -= 0.5 * np.maximum((ops != 8).sum(axis=1) - depth, 0)
    accuracy = 0.60 + 0.24 / (1 + np.exp(-(score - 2.2) / 1.3)) + rng.normal(0, 0.0012, len(score))
    wide = np.where(reads_input, 1.9, 1.0)
    latency_ms = 0.55 + 0.12 * depth + (wide * cost[ops]).sum(axis=1)
    latency_ms *= 1 + 0.01 * rng.normal(size=len(score))
    params_m = 0.02 + (wide * size[ops]).sum(axis=1)
    rows = [
        (LINKS[c[0]], *(OPERATIONS[o] for o in c[1:]), round(a, 5), round(ms, 4), round(m, 4))
        for c, a, ms, m in zip(choices, accuracy, latency_ms, params_m, strict=True)
    ]
    if num_rows >= len(rows):
        return rows
    return [rows[i] for i in np.sort(np.random.default_rng(seed).permutation(len(rows))[:num_rows])]


def write(path: Path, num_rows: int = NUM_ROWS, seed: int = 0) -> None:
    """The rows as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(measurements(num_rows, seed))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write a table of invented graph networks.")
    parser.add_argument("path", type=Path)
    parser.add_argument("--rows", type=int, default=NUM_ROWS)
    parser.add_argument("--seed", type=int, default=0, help="of which rows")
    arguments = parser.parse_args()
    write(arguments.path, arguments.rows, arguments.seed)
