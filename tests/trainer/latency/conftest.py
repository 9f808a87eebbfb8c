"""Devices that are known exactly, and a session that takes as long as it is told."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from pnag.models.latency_table import Device, LatencyTable, LayerLatency
from pnag.models.layers import Layer
from pnag.models.search_space import SearchSpace
from pnag.models.spaces.registry import get_space
from pnag.trainer.latency.kit_script import Item, Setup

MEASURED = {"threads": 1, "batch_size": 1, "execution_provider": "CPUExecutionProvider", "precision": "fp32"}


@pytest.fixture(scope="session")
def macro() -> SearchSpace:
    return get_space("nas-bench-macro")


@pytest.fixture(scope="session")
def ofa() -> SearchSpace:
    return get_space("ofa-mobilenetv3-w1.0")


@pytest.fixture(scope="session")
def ofa_224(ofa: SearchSpace) -> SearchSpace:
    return ofa.restrict({"resolution": [224]})


def invent_table(space: SearchSpace) -> LatencyTable:
    """A layer takes what its MACs and its memory traffic suggest."""
    layers = {
        layer.key: LayerLatency(0.01 + layer.macs * 3e-8 + layer.peak_activations * 2e-7)
        for layer in space.distinct_layers()
    }
    return LatencyTable(space.name, Device("invented", **MEASURED), "invented", layers, overhead_ms=0.02)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def macro_table(macro: SearchSpace) -> LatencyTable:
    return invent_table(macro)


@pytest.fixture(scope="session")
def ofa_table(ofa_224: SearchSpace) -> LatencyTable:
    return invent_table(ofa_224)


@dataclass
class FakeSessions:
    """Opens sessions whose runs take `duration_ms(name, run number)`; keeps what was opened and run, in order."""

    duration_ms: Callable[[str, int], float]
    opened: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    alive: int = 0
    most_alive: int = 0
    now_s: float = 0.0

    def open(self, item: Item, setup: Setup) -> Callable[[], float]:  # noqa: ARG002
        self.opened.append(item.name)
        self.alive += 1
        self.most_alive = max(self.most_alive, self.alive)
        sessions = self

        class Session:
            def __call__(self) -> float:
                sessions.runs.append(item.name)
                ms = sessions.duration_ms(item.name, len(sessions.runs))
                sessions.now_s += ms / 1000
                return ms

            def __del__(self) -> None:
                sessions.alive -= 1

        return Session()

    def clock(self) -> float:
        return self.now_s


@pytest.fixture
def fake_sessions() -> type[FakeSessions]:
    return FakeSessions


def launch_bound_ms(layers: Sequence[Layer], launch_us: float = 6.0) -> float:
    """A device that launches kernel after kernel, each of which waits for the one before: not a sum over layers."""
    issued = finished = 0.0
    for layer in layers:
        kernels = 2 + 2 * (layer.kind == "mbconv") + 5 * (layer.squeeze_channels > 0)
        for _ in range(kernels):
            issued += launch_us
            finished = max(finished, issued) + max(2.0, layer.macs / kernels / 2.5e6)
    return finished / 1000


@pytest.fixture(scope="session")
def launch_bound() -> Callable[..., float]:
    return launch_bound_ms


@pytest.fixture(scope="session")
def ofa_rows(ofa: SearchSpace) -> np.ndarray:
    """Networks of every resolution, without repeats, shape [900, D]."""
    rng = np.random.default_rng(0)
    return rng.permutation(np.unique(ofa.sample(950, rng), axis=0))[:900]
