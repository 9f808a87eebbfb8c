"""The policy: masks hold, probabilities are probabilities, and the ONNX twin writes the same tokens."""

import numpy as np
import onnx
import pytest
import torch

from pnag.models.answer.limits import NO_LIMIT
from pnag.models.cost.additive import LayerCost, macs_cost, params_cost
from pnag.models.cost.slack import SlackTable
from pnag.models.errors import TrainingError
from pnag.models.policy.generator import Generator
from pnag.models.space.registry import get_space
from pnag.models.space.search_space import INACTIVE, SearchSpace
from pnag.trainer.generator.archive import ends
from pnag.trainer.generator.export import export_generator, verify_generator


def _untrained(space: SearchSpace, seed: int = 0) -> tuple[Generator, LayerCost]:
    torch.manual_seed(seed)
    cost = LayerCost(space, lambda layer: layer.macs / 1e7, constant=0.3)
    slack = SlackTable.build(space, [cost, macs_cost(space), params_cost(space)])
    sampled = cost(space.sample(2000, np.random.default_rng(0)))
    low = float(cost(ends(space, slack))[0])
    generator = Generator(space, slack, low, float(sampled.max()), embedding=8, hidden=12)
    torch.nn.init.normal_(generator.head_DHC, std=2.0)  # far from uniform, so that budgets and slack matter
    return generator, cost


@pytest.fixture(scope="module", params=["nas-bench-macro", "ofa-mobilenetv3-w1.0", "ofa at 224"])
def case(request: pytest.FixtureRequest) -> tuple[Generator, LayerCost]:
    if request.param == "ofa at 224":
        return _untrained(get_space("ofa-mobilenetv3-w1.0").restrict({"resolution": (224,)}))
    return _untrained(get_space(request.param))


def _limits(budgets_N: np.ndarray) -> np.ndarray:
    limits = np.full((len(budgets_N), 3), NO_LIMIT, dtype=np.float32)
    limits[:, 0] = budgets_N
    return limits


def _noise(generator: Generator, count: int) -> np.ndarray:
    shape = (count, len(generator.space.decisions), generator.width)
    return np.random.default_rng(1).gumbel(size=shape).astype(np.float32)


def test_raw_samples_keep_every_limit(case: tuple[Generator, LayerCost]) -> None:
    generator, cost = case
    budgets = np.random.default_rng(2).uniform(generator.low * 1.0001, generator.high, 300)
    limits = _limits(budgets)
    macs, params = macs_cost(generator.space), params_cost(generator.space)
    limits[100:, 1] = np.float32(1.3e8 if "ofa" in generator.space.name else 1.5e7)
    limits[200:, 2] = np.float32(3.7e6 if "ofa" in generator.space.name else 8e5)
    possible = limits[:, 1:] >= generator.slack.base_K[1:]
    assert possible.all()
    tokens = generator.sample(limits, _noise(generator, 300))
    generator.space.validate(tokens)
    values = np.stack([cost(tokens), macs(tokens), params(tokens)], axis=1)
    alone = slice(0, 100)
    assert (values[alone, 0] <= limits[alone, 0] * (1 + 1e-5)).all()
    # Several limits at once can leave no completion; a dead end is recognised by its last floor, and dropped.
    kept = (values <= limits * (1 + 1e-5)).all(axis=1)
    assert kept.mean() > 0.5
    assert (values[kept, 0] <= limits[kept, 0] * (1 + 1e-5)).all()


def test_without_the_slack_mask_samples_break_the_budget(case: tuple[Generator, LayerCost]) -> None:
    """The test above must be able to fail."""
    generator, cost = case
    budgets = np.full(200, generator.low + 0.05 * (generator.high - generator.low))
    tokens = generator.sample(_limits(np.full(200, NO_LIMIT)), _noise(generator, 200))
    assert (cost(tokens) > budgets).mean() > 0.5


def test_log_prob_agrees_with_the_sampler(case: tuple[Generator, LayerCost]) -> None:
    """Greedy tokens are the arg max of teacher-forced logits, step by step: the two code paths see the same inputs."""
    generator, _ = case
    limits = _limits(np.linspace(generator.low * 1.0001, generator.high, 40))
    greedy = generator.sample(limits, np.zeros((40, len(generator.space.decisions), generator.width), np.float32))
    logits = generator.masked_logits(greedy, limits).detach().numpy()
    best = logits.argmax(axis=2)
    active = greedy != INACTIVE
    assert np.array_equal(best[active], greedy[active])
    assert (best[~active] == 0).all()


def test_probabilities_of_all_architectures_sum_to_one() -> None:
    generator, cost = _untrained(get_space("nas-bench-macro"))
    everything = generator.space.assignments([d.name for d in generator.space.decisions])
    budget = float(np.quantile(cost(everything), 0.3))
    probability = generator.log_prob(everything, _limits(np.full(len(everything), budget))).exp().detach().numpy()
    assert probability.sum() == pytest.approx(1.0, abs=1e-4)
    assert (probability[cost(everything) > budget * (1 + 1e-5)] == 0).all()


def test_samples_follow_the_policy() -> None:
    """Gumbel-max against exact probabilities, by chi-square over the most likely architectures."""
    generator, cost = _untrained(get_space("nas-bench-macro"))
    everything = generator.space.assignments([d.name for d in generator.space.decisions])
    budget = float(np.quantile(cost(everything), 0.05))
    probability = generator.log_prob(everything, _limits(np.full(len(everything), budget))).exp().detach().numpy()
    count = 4000
    tokens = generator.sample(_limits(np.full(count, budget)), _noise(generator, count))
    index = {row.tobytes(): i for i, row in enumerate(everything)}
    seen = np.bincount([index[row.tobytes()] for row in tokens], minlength=len(everything))
    likely = np.argsort(-probability)[:20]
    expected = probability[likely] * count
    assert np.sum((seen[likely] - expected) ** 2 / expected) < 45  # 99.9 % of chi-square with 20 degrees of freedom


def test_inactive_decisions_add_nothing_to_the_log_probability() -> None:
    generator, _ = _untrained(get_space("ofa-mobilenetv3-w1.0").restrict({"resolution": (224,)}))
    tokens = generator.space.sample(20, np.random.default_rng(5))
    limits = _limits(np.full(20, NO_LIMIT))
    before = generator.log_prob(tokens, limits)
    with torch.no_grad():
        for t in range(tokens.shape[1]):
            rows = tokens[:, t] == INACTIVE
            if rows.all():
                generator.head_DC[t] += 100.0
    after = generator.log_prob(tokens, limits)
    torch.testing.assert_close(before, after)
    log_softmax = torch.log_softmax(generator.masked_logits(tokens, limits), dim=2).detach().numpy()
    by_hand = [
        sum(log_softmax[n, t, token] for t, token in enumerate(row) if token != INACTIVE)
        for n, row in enumerate(tokens)
    ]
    np.testing.assert_allclose(before.detach().numpy(), by_hand, rtol=1e-4)


def test_onnx_writes_the_tokens_that_torch_does(case: tuple[Generator, LayerCost]) -> None:
    generator, _ = case
    model = export_generator(generator)
    assert verify_generator(generator, model, seed=3) == 16 * 32 * len(generator.space.decisions)


@pytest.mark.parametrize("spoiled", ["head", "slack"])
def test_an_export_that_differs_is_refused(spoiled: str) -> None:
    generator, _ = _untrained(get_space("nas-bench-macro"))
    model = onnx.load_from_string(export_generator(generator))
    with torch.no_grad():
        if spoiled == "head":
            generator.head_DHC[3] *= -1
        else:
            generator.slack_input.weight *= -3
    with pytest.raises(TrainingError, match="differs from torch at budget"):
        verify_generator(generator, model.SerializeToString(), seed=0)
