"""The plug-in keeps every promise, and goes from space to ONNX; run by pnag's own tests too."""

import numpy as np
import onnxruntime
import pytest
from resnet_space.space import ResNetCifar

from pnag.models.cost.additive import macs_cost, params_cost
from pnag.models.cost.slack import SlackTable
from pnag.models.space.search_space import SearchSpace
from pnag.trainer.checks.space import check_space
from pnag.trainer.latency.graphs import INPUT, network_graph


def test_the_space_keeps_its_promises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pnag.models.space.registry.SPACES", {"resnet-cifar": ResNetCifar})
    failed = [result for result in check_space(ResNetCifar()) if not result.passed]
    assert not failed, failed


def test_macs_of_a_basic_stage_by_hand() -> None:
    layers = ResNetCifar().layers("b16x1-b32x1-b64x1")
    stem = 32 * 32 * 9 * 3 * 32
    first = 32 * 32 * (9 * 32 * 16 + 9 * 16 * 16 + 32 * 16)
    assert [layer.macs for layer in layers[:2]] == [stem, first]


def test_from_an_encoding_to_a_network_that_runs() -> None:
    space: SearchSpace = ResNetCifar()
    model = network_graph(space, "b16x2-n64x3-b64x1", batch_size=2)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).random((2, 3, 32, 32), dtype=np.float32)
    (logits,) = session.run(None, {INPUT: images})
    assert logits.shape == (2, 10)
    assert np.isfinite(logits).all()
    assert not np.allclose(logits[0], logits[1])


def test_the_mask_knows_what_every_choice_commits_to() -> None:
    space = ResNetCifar()
    slack = SlackTable.build(space, [macs_cost(space), params_cost(space)])
    tokens = space.sample(50, np.random.default_rng(0))
    steps = slack.steps_RK[slack.entries(tokens) + tokens]
    assert np.allclose(
        slack.base_K + steps.sum(axis=1), np.stack([macs_cost(space)(tokens), params_cost(space)(tokens)], 1)
    )
