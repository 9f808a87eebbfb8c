"""One small but real training, shared by every test that needs a trained bundle."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pnag.models.bundle import Bundle
from pnag.models.latency_table import Device, LatencyTable, LayerLatency, UpperBound
from pnag.models.spaces.registry import get_space
from pnag.trainer.progress import show_progress
from pnag.trainer.recipes import quick
from pnag.trainer.train import Identity, train_bundle

SPACE_NAME = "nas-bench-macro"
RATIOS = tuple(np.linspace(0.96, 1.08, 30))


def _write_table(path: Path, *, speed: float = 1.0, ratios: tuple[float, ...] = RATIOS) -> Path:
    """A latency table whose layers cost what their MACs and memory traffic suggest."""
    space = get_space(SPACE_NAME)
    LatencyTable(
        space=SPACE_NAME,
        device=Device("test device", threads=1, batch_size=1, precision="fp32"),
        statistic="invented",
        layers={
            layer.key: LayerLatency((0.02 + layer.macs * 2e-7 + layer.peak_activations * 1e-6) / speed)
            for layer in space.distinct_layers()
        },
        overhead_ms=0.05,
        upper_bound=UpperBound(0.9, ratios),
    ).save(path)
    return path


def _write_records(path: Path, count: int = 150) -> Path:
    """Accuracies of an invented truth: depth and width help, less and less."""
    space = get_space(SPACE_NAME)
    tokens_ND = np.unique(space.sample(count * 2, np.random.default_rng(0)), axis=0)
    tokens_ND = tokens_ND[np.random.default_rng(1).permutation(len(tokens_ND))[:count]]
    weights = np.linspace(0.5, 1.5, 8)
    gain_N = ((tokens_ND == 1) * weights + 1.6 * (tokens_ND == 2) * weights).sum(axis=1)
    accuracy_N = 0.95 - 0.2 * np.exp(-0.15 * gain_N)
    rows = [f"{space.encode(t)},{a * 100:.3f}" for t, a in zip(tokens_ND, accuracy_N, strict=True)]
    path.write_text("architecture,top1_percent\n" + "\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="session")
def write_table() -> Callable[..., Path]:
    return _write_table


@pytest.fixture(scope="session")
def write_records() -> Callable[..., Path]:
    return _write_records


@pytest.fixture(scope="session")
def train_quickly(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Bundle]:
    """Train on the invented truth under a name; the bundle lies in a folder of that name."""

    def train(name: str, seed: int = 0) -> Bundle:
        folder = tmp_path_factory.mktemp("training")
        records, table = _write_records(folder / "records.csv"), _write_table(folder / "table.json")
        identity = Identity(name, "1", "invented")
        with show_progress() as progress:
            return train_bundle(SPACE_NAME, records, table, folder / name, identity, quick(seed), progress)

    return train


@pytest.fixture(scope="session")
def trained(train_quickly: Callable[..., Bundle]) -> Bundle:
    return train_quickly("trained")
