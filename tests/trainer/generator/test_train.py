"""Both ways of training a generator: what they learn, what they refuse, and that a broken-off run ends the same."""

import csv
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pnag.models.answer.limits import NO_LIMIT
from pnag.models.cost.additive import LayerCost
from pnag.models.cost.slack import SlackTable
from pnag.models.errors import TrainingError
from pnag.models.policy.generator import Generator
from pnag.models.space.registry import get_space
from pnag.models.space.search_space import INACTIVE
from pnag.trainer.checkpoint import CHECKPOINT, CURVES, Checkpoint
from pnag.trainer.config import (
    ArchiveConfig,
    EvaluatorConfig,
    GeneratorConfig,
    RankingConfig,
    ReinforceConfig,
    TrainConfig,
)
from pnag.trainer.evaluator.dominance import pair_agreement
from pnag.trainer.evaluator.ranking import train_ranking_evaluator
from pnag.trainer.generator.objective import Objective, RememberingObjective
from pnag.trainer.generator.policy_run import PolicyRun, sample
from pnag.trainer.generator.reinforce import advantages, composite, draw_budgets, log_prob_and_entropy, reinforce
from pnag.trainer.generator.train import GeneratorTask, train_generator
from pnag.trainer.progress import SILENT

SPACE = get_space("nas-bench-macro").restrict({f"layer{i}": ("identity", "mbconv_k3_e3") for i in (4, 5, 7, 8)})
COST = LayerCost(SPACE, lambda layer: layer.macs / 1e6)
SLACK = SlackTable.build(SPACE, [COST])
EVERYTHING = SPACE.assignments([d.name for d in SPACE.decisions])
WEIGHTS = np.random.default_rng(5).uniform(0.5, 1.5, 8)


def _accuracy(tokens_ND: np.ndarray) -> np.ndarray:
    return 0.9 - 0.3 * np.exp(-0.2 * ((tokens_ND > 0) * WEIGHTS + 0.5 * (tokens_ND > 1) * WEIGHTS).sum(axis=1))


def _objective() -> Objective:
    return Objective(COST, _accuracy)


def _config(method: str, seed: int = 0) -> TrainConfig:
    return TrainConfig(
        seed=seed,
        archive=ArchiveConfig(cells=24, initial=60, generations=4, children=40, local_search_rounds=2),
        generator=GeneratorConfig(
            method=method, embedding=8, hidden=12, steps=30, rounds=2, batch_size=16, ask_budgets=8, ask_candidates=4
        ),
        reinforce=ReinforceConfig(steps=30, budgets=4, samples=6),
    )


class _InterruptedAt:
    """A progress bar during which somebody presses Ctrl-C at the n-th step of the named stage."""

    def __init__(self, name: str, step: int) -> None:
        self.name, self.left = name, step
        self._here = False

    @contextmanager
    def stage(self, name: str, _total: int) -> "Iterator[_InterruptedAt]":
        self._here = name == self.name
        yield self

    def step(self, count: int = 1, note: str = "") -> None:
        if self._here and note:
            self.left -= count
            if self.left == 0:
                signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("method", "stage", "step"),
    [("elite-imitation", "generator 1/2", 7), ("elite-imitation", "generator 2/2", 29), ("reinforce", "reinforce", 11)],
)
def test_a_run_broken_off_and_resumed_ends_with_the_same_bits(
    method: str, stage: str, step: int, tmp_path: Path
) -> None:
    config = _config(method)
    whole, policy = train_generator(GeneratorTask(SPACE, SLACK, _objective(), config), SILENT, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train_generator(
            GeneratorTask(SPACE, SLACK, _objective(), config),
            _InterruptedAt(stage, step),  # type: ignore[arg-type]
            tmp_path / "broken",
        )
    objective = _objective()
    resumed, same_policy = train_generator(GeneratorTask(SPACE, SLACK, objective, config), SILENT, tmp_path / "broken")
    for name, weights in policy.state_dict().items():
        assert torch.equal(weights, same_policy.state_dict()[name]), name
    assert whole.tokens_ND is not None
    assert resumed.tokens_ND is not None
    assert np.array_equal(whole.tokens_ND, resumed.tokens_ND)
    assert objective.calls == whole.objective.calls
    assert (tmp_path / "broken" / CURVES).read_text() == (tmp_path / "whole" / CURVES).read_text()


def test_curves_have_one_row_per_step(tmp_path: Path) -> None:
    train_generator(GeneratorTask(SPACE, SLACK, _objective(), _config("elite-imitation")), SILENT, tmp_path)
    rows = list(csv.DictReader((tmp_path / CURVES).read_text().splitlines()))
    assert [(r["round"], r["step"]) for r in rows] == [(str(n), str(s)) for n in (1, 2) for s in range(1, 31)]


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    _, policy = train_generator(GeneratorTask(SPACE, SLACK, _objective(), _config("reinforce")), SILENT, tmp_path)
    before = (tmp_path / CURVES).read_text()
    _, again = train_generator(GeneratorTask(SPACE, SLACK, _objective(), _config("reinforce")), SILENT, tmp_path)
    assert torch.equal(policy.head_DHC, again.head_DHC)
    assert (tmp_path / CURVES).read_text() == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("space", "search space"),
        ("cost", "costs"),
        ("evaluator", "evaluator"),
        ("steps", "configuration"),
        ("seed", "seed"),
        ("method", "method"),
    ],
)
def test_the_checkpoint_of_another_run_is_refused_by_name(change: str, named: str, tmp_path: Path) -> None:
    config = _config("elite-imitation")
    train_generator(GeneratorTask(SPACE, SLACK, _objective(), config), SILENT, tmp_path)
    space, slack, objective = SPACE, SLACK, _objective()
    if change == "space":
        space = get_space("nas-bench-macro")
        cost = LayerCost(space, lambda layer: layer.macs / 1e6)
        slack, objective = SlackTable.build(space, [cost]), Objective(cost, _accuracy)
    elif change == "cost":
        cost = LayerCost(SPACE, lambda layer: layer.params / 1e6)
        slack, objective = SlackTable.build(SPACE, [cost]), Objective(cost, _accuracy)
    elif change == "evaluator":
        objective = Objective(COST, lambda tokens: _accuracy(tokens) ** 2)
    elif change == "steps":
        config = replace(config, generator=replace(config.generator, steps=31))
    elif change == "seed":
        config = replace(config, seed=1)
    else:
        config = _config("reinforce")
    with pytest.raises(TrainingError, match=f"belongs to another run, which differs in .*{named}"):
        train_generator(GeneratorTask(space, slack, objective, config), SILENT, tmp_path)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes(b"not a checkpoint")
    with pytest.raises(TrainingError, match="is no checkpoint"):
        train_generator(GeneratorTask(SPACE, SLACK, _objective(), _config("reinforce")), SILENT, tmp_path)


# -- reinforce ---------------------------------------------------------------------------------------------------------


def test_reinforce_finds_better_networks_than_the_policy_it_starts_from() -> None:
    config = replace(_config("reinforce"), reinforce=ReinforceConfig(steps=150, learning_rate=1e-2))
    budgets = np.repeat(np.linspace(COST(EVERYTHING).min(), COST(EVERYTHING).max(), 12)[1:-1], 8)
    rng = np.random.default_rng(0)
    _, start = train_generator(
        GeneratorTask(SPACE, SLACK, _objective(), replace(config, reinforce=ReinforceConfig(steps=1))), SILENT
    )
    _, trained = train_generator(GeneratorTask(SPACE, SLACK, _objective(), config), SILENT)
    before, after = (_accuracy(sample(p, budgets, rng)).mean() for p in (start, trained))
    assert after > before + 0.01
    assert (COST(sample(trained, budgets, rng)) <= budgets * (1 + 1e-6)).all()


def test_each_budget_has_its_own_baseline() -> None:
    """A budget whose rewards are all higher by a constant teaches nothing else: without a baseline it would."""
    reward = np.random.default_rng(0).normal(size=(4, 6))
    shifted = reward + np.array([[0.0], [5.0], [-3.0], [100.0]])
    np.testing.assert_allclose(advantages(shifted), advantages(reward), atol=1e-9)
    np.testing.assert_allclose(advantages(reward).mean(axis=1), 0.0, atol=1e-12)
    assert advantages(reward).std() == pytest.approx(1.0)


def test_training_is_deaf_to_a_reward_that_depends_on_the_budget_alone() -> None:
    """The baseline in place: take it out of `advantages`' use, and the second policy differs."""

    def trained(bonus: Callable[[np.ndarray], np.ndarray]) -> Generator:
        torch.manual_seed(0)
        generator = Generator(SPACE, SLACK, 10.0, 60.0, 8, 12)
        score = composite(50.0)
        run = PolicyRun(generator, np.random.default_rng(0), SILENT, Checkpoint(None, {}))
        reinforce(run, _objective(), lambda t, c, a, b: score(t, c, a, b) + bonus(b), ReinforceConfig(steps=5))
        return generator

    plain, with_bonus = trained(np.zeros_like), trained(lambda budget: 10 * budget)
    torch.testing.assert_close(plain.head_DC, with_bonus.head_DC, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_reward_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(TrainingError, match="not finite"):
        advantages(np.array([[0.5, bad]]))
    broken = Objective(COST, lambda tokens: np.where(np.arange(len(tokens)) == 1, bad, 0.5))
    with pytest.raises(TrainingError, match=r"the evaluator gave .*must be finite"):
        broken(EVERYTHING[:3])


def test_one_budget_is_drawn_from_each_part_of_the_range() -> None:
    budgets = draw_budgets(10.0, 20.0, 5, np.random.default_rng(0))
    assert np.floor((budgets - 10) / 2).tolist() == [0, 1, 2, 3, 4]


def test_entropy_is_that_of_the_active_decisions_options_that_fit() -> None:
    space = get_space("ofa-mobilenetv3-w1.0").restrict({"resolution": (224,)})
    cost = LayerCost(space, lambda layer: layer.macs / 1e6)
    generator = Generator(space, SlackTable.build(space, [cost]), 80.0, 600.0, 4, 4)
    with torch.no_grad():
        generator.head_DHC.zero_()  # every option that fits is as likely as any other
    tokens = space.sample(6, np.random.default_rng(0))
    limits = np.full((6, 1), NO_LIMIT, dtype=np.float32)
    log_prob, entropy = log_prob_and_entropy(generator, tokens, limits)
    choices = np.where(tokens != INACTIVE, np.log(space.num_options_D), 0.0)
    np.testing.assert_allclose(log_prob.detach().numpy(), -choices.sum(axis=1), rtol=1e-5)
    by_hand = choices.sum(axis=1) / (tokens != INACTIVE).sum(axis=1)
    np.testing.assert_allclose(entropy.detach().numpy(), by_hand, rtol=1e-5)
    torch.testing.assert_close(log_prob, generator.log_prob(tokens, limits))


def test_log_probabilities_leave_inactive_decisions_out_even_where_the_slack_table_would_not() -> None:
    """The table gives an inactive decision one way to go, of probability 1: so the mask is tried without it."""
    space = get_space("ofa-mobilenetv3-w1.0").restrict({"resolution": (224,)})
    slack = SlackTable.build(space, [LayerCost(space, lambda layer: layer.macs / 1e6)])
    generator = Generator(space, replace(slack, steps_RK=np.zeros_like(slack.steps_RK)), 80.0, 600.0, 4, 4)
    with torch.no_grad():
        generator.head_DHC.zero_()
    tokens = space.sample(6, np.random.default_rng(0))
    choices = np.where(tokens != INACTIVE, np.log(space.num_options_D), 0.0)
    log_prob = generator.log_prob(tokens, np.full((6, 1), NO_LIMIT, dtype=np.float32))
    np.testing.assert_allclose(log_prob.detach().numpy(), -choices.sum(axis=1), rtol=1e-5)


def test_an_allowance_is_never_overdrawn() -> None:
    objective = RememberingObjective(COST, _accuracy, limit=70)
    train_generator(GeneratorTask(SPACE, SLACK, objective, _config("elite-imitation")), SILENT)
    assert objective.calls == 70
    objective = RememberingObjective(COST, _accuracy, limit=70)
    train_generator(GeneratorTask(SPACE, SLACK, objective, _config("reinforce")), SILENT)
    assert objective.calls <= 70


def test_a_repeated_question_is_answered_from_memory() -> None:
    objective = RememberingObjective(COST, _accuracy)
    twice = np.concatenate([EVERYTHING[:5], EVERYTHING[:5]])
    cost, accuracy = objective(twice)
    assert objective.calls == 5
    np.testing.assert_array_equal(cost, COST(twice))
    np.testing.assert_array_equal(accuracy, _accuracy(twice))
    assert objective.num_unseen(EVERYTHING[3:8]) == 3


# -- what cannot be trained on -----------------------------------------------------------------------------------------


def test_a_space_with_one_cost_is_refused() -> None:
    flat = LayerCost(SPACE, lambda _layer: 0.0, constant=7.0)
    with pytest.raises(TrainingError, match=r"both cost 7.*different cost"):
        train_generator(
            GeneratorTask(SPACE, SlackTable.build(SPACE, [flat]), Objective(flat, _accuracy), _config("reinforce")),
            SILENT,
        )


def test_a_front_of_one_point_still_trains_and_answers() -> None:
    """The cheapest network is also the best: every budget has that answer."""
    objective = Objective(COST, lambda tokens: 0.9 - COST(tokens) / 1000)
    archive, generator = train_generator(GeneratorTask(SPACE, SLACK, objective, _config("elite-imitation")), SILENT)
    assert len(archive.front_indices()) == 1
    answers = sample(generator, np.linspace(generator.low * 1.001, generator.high, 5), np.random.default_rng(0))
    SPACE.validate(answers)


def test_a_learned_score_for_imitation_is_refused() -> None:
    config = TrainConfig(evaluator=EvaluatorConfig(score="ranking"))
    with pytest.raises(TrainingError, match="guides method reinforce only"):
        train_generator(GeneratorTask(SPACE, SLACK, _objective(), config), SILENT)


def test_a_method_that_is_not_registered_is_refused_with_those_that_are() -> None:
    with pytest.raises(TrainingError, match=r"'magic'; choose from .*elite-imitation.*reinforce"):
        train_generator(GeneratorTask(SPACE, SLACK, _objective(), _config("magic")), SILENT)


# -- the ranking evaluator ---------------------------------------------------------------------------------------------


def _ranking(steps: int = 250, budgets: int = 6):  # noqa: ANN202
    tokens = EVERYTHING[np.random.default_rng(1).permutation(len(EVERYTHING))[:120]]
    config = RankingConfig(budgets=budgets, hidden=48, steps=steps)
    return tokens, train_ranking_evaluator(SPACE, tokens, COST(tokens), _accuracy(tokens), config, 0, SILENT)


def test_the_ranking_evaluator_orders_what_it_was_taught() -> None:
    tokens, evaluator = _ranking()
    budgets = evaluator.budgets_K[1:-1]
    scores = np.stack([evaluator.score(tokens, np.full(len(tokens), b)) for b in budgets])
    assert pair_agreement(scores, COST(tokens), _accuracy(tokens), budgets).accuracy > 0.93


def test_a_budget_between_two_known_ones_gets_their_interpolation() -> None:
    _, evaluator = _ranking(steps=1, budgets=3)
    low, middle, high = evaluator.budgets_K
    asked = np.array([low - 1, low, low + (middle - low) / 4, high, high + 5])
    known = evaluator.embedding_KE
    expected = torch.stack([known[0], known[0], 0.75 * known[0] + 0.25 * known[1], known[2], known[2]])
    torch.testing.assert_close(evaluator.embed(asked), expected)


@pytest.mark.parametrize(("rows", "message"), [(slice(0, 1), "at least two"), (slice(0, 0), "at least two")])
def test_too_few_architectures_to_rank_are_refused(rows: slice, message: str) -> None:
    tokens = EVERYTHING[rows]
    with pytest.raises(TrainingError, match=message):
        train_ranking_evaluator(SPACE, tokens, COST(tokens), _accuracy(tokens), RankingConfig(), 0, SILENT)


def test_architectures_of_one_cost_cannot_be_ranked_over_budgets() -> None:
    tokens = EVERYTHING[:5]
    with pytest.raises(TrainingError, match=r"every architecture costs 3"):
        train_ranking_evaluator(SPACE, tokens, np.full(5, 3.0), _accuracy(tokens), RankingConfig(), 0, SILENT)
