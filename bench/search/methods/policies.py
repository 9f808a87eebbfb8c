"""Methods that train a policy and answer by sampling from it.

Axis letters: N = architectures, D = decisions, B = budgets, S = samples per budget.
"""

import time
from dataclasses import replace

import numpy as np
import torch

from pnag.bench.search.methods.official import (
    ENTROPY_WEIGHT,
    ITERATIONS,
    LEARNING_RATE,
    NUM_CONDITIONS,
    NUM_SAMPLES,
    REWARD_SCALE,
    VALIDATE_EVERY,
    OfficialController,
)
from pnag.bench.search.methods.run import NO_ANSWER, FittedMethod, Floats, MethodRun, answer_from, new_policy
from pnag.models.policy.generator import Generator
from pnag.models.space.search_space import Tokens
from pnag.trainer.checkpoint import Checkpoint
from pnag.trainer.config import ReinforceConfig
from pnag.trainer.evaluator.dominance import composite_score
from pnag.trainer.generator.archive import Archive
from pnag.trainer.generator.objective import RememberingObjective
from pnag.trainer.generator.policy_run import PolicyRun, sample
from pnag.trainer.generator.reinforce import composite, reinforce
from pnag.trainer.generator.train import GeneratorTask, train_generator
from pnag.trainer.progress import SILENT

_NAS_MO_SAMPLES = 16


def _policy(samples: int, seed: int, generator: Generator, memory_ND: Tokens | None = None) -> FittedMethod:
    """Answers with the best of S samples per budget, the greedy one among them; with `memory_ND`, or of those."""

    def answer(budgets_B: Floats, objective: RememberingObjective) -> Tokens:
        rng = np.random.default_rng([seed, 20])
        answers = []
        for budget in budgets_B:
            tokens_ND = sample(generator, np.full(samples, budget), rng)
            if memory_ND is not None:
                tokens_ND = np.concatenate([tokens_ND, memory_ND])
            answers.append(answer_from(tokens_ND, *objective(tokens_ND))(np.array([budget]), objective)[0])
        return np.stack(answers)

    return answer


def _trained(run: MethodRun, objective: RememberingObjective) -> tuple[Archive, Generator]:
    """Elite imitation, trained once for the two ways of asking it."""
    if "elite" not in run.shared:
        config = replace(run.config, seed=run.seed, generator=replace(run.config.generator, method="elite-imitation"))
        started, calls = time.monotonic(), objective.calls
        trained = train_generator(GeneratorTask(run.problem.space, run.problem.slack, objective, config), run.progress)
        run.shared["elite"] = (trained, objective.calls - calls, time.monotonic() - started)
    else:
        objective.calls += run.shared["elite"][1]
    archive, generator = run.shared["elite"][0]
    return archive, generator


def elite_imitation(run: MethodRun, objective: RememberingObjective) -> FittedMethod:
    return _policy(run.samples, run.seed, _trained(run, objective)[1])


def elite_imitation_with_front(run: MethodRun, objective: RememberingObjective) -> FittedMethod:
    """Answer as a bundle does: from the generator's samples, or the front it was trained on if that is better."""
    archive, generator = _trained(run, objective)
    assert archive.tokens_ND is not None
    return _policy(run.samples, run.seed, generator, archive.tokens_ND[archive.front_indices()])


def policy_gradient(run: MethodRun, objective: RememberingObjective) -> FittedMethod:
    config = replace(
        run.config,
        seed=run.seed,
        generator=replace(run.config.generator, method="reinforce"),
        reinforce=_reinforce_within(run.config.reinforce, run),
    )
    _, generator = train_generator(GeneratorTask(run.problem.space, run.problem.slack, objective, config), run.progress)
    return _policy(run.samples, run.seed, generator)


def _reinforce_within(config: ReinforceConfig, run: MethodRun) -> ReinforceConfig:
    """As many steps as the allowance pays for; on a small space repeats are free, so it gets three times as many."""
    samples = config.samples if run.allowance >= 100 * config.budgets * config.samples else 4
    times = 3 if run.problem.is_enumerable else 1
    return replace(config, samples=samples, steps=max(20, times * run.allowance // (config.budgets * samples)))


def policy_per_budget(run: MethodRun, objective: RememberingObjective) -> FittedMethod:
    """Train the same policy by the same policy gradient, anew for each budget alone (the paper's NAS-MO)."""
    problem = run.problem
    share = run.allowance // len(problem.budgets_B)
    samples = _NAS_MO_SAMPLES if share >= 20 * _NAS_MO_SAMPLES else 4
    config = ReinforceConfig(steps=max(4, share // samples), budgets=1, samples=samples, learning_rate=1e-2)
    policies = []
    with run.progress.stage("policy per budget", len(problem.budgets_B)) as bar:
        for number, budget in enumerate(problem.budgets_B):
            torch.manual_seed(run.seed * 1000 + number)
            memory = RememberingObjective(objective.cost, objective.accuracy, limit=share)
            generator = new_policy(problem, run.config.generator.embedding, run.config.generator.hidden)
            policy_run = PolicyRun(
                generator, np.random.default_rng([run.seed, 12, number]), SILENT, Checkpoint(None, {})
            )
            reinforce(policy_run, memory, composite(problem.high - problem.low), config, np.array([budget]))
            objective.calls += memory.calls
            policies.append(_policy(run.samples, run.seed, generator))
            bar.step()

    def answer(budgets_B: Floats, counted: RememberingObjective) -> Tokens:
        assert np.array_equal(budgets_B, problem.budgets_B), "NAS-MO has a policy for the test budgets alone"
        return np.concatenate([p(budgets_B[[i]], counted) for i, p in enumerate(policies)])

    return answer


def official_recipe(run: MethodRun, objective: RememberingObjective) -> FittedMethod:
    problem, space = run.problem, run.problem.space
    rng = np.random.default_rng([run.seed, 13])
    torch.manual_seed(run.seed)
    trained_K = np.linspace(problem.low, problem.high, NUM_CONDITIONS + 2)[1:-1]
    controller = OfficialController(space, NUM_CONDITIONS)
    optimizer = torch.optim.Adam(controller.parameters(), lr=LEARNING_RATE)
    span = problem.high - problem.low
    kept: list[Tokens] = []

    def draw(condition: int) -> Tokens:
        return space.canonical(np.stack([controller.sample(condition, rng) for _ in range(NUM_SAMPLES)]))

    with run.progress.stage("official recipe", ITERATIONS) as bar:
        for iteration in range(ITERATIONS):
            condition = int(rng.integers(NUM_CONDITIONS))
            raw_D = controller.sample(condition, rng)
            tokens_1D = space.canonical(raw_D[np.newaxis])
            if objective.num_unseen(tokens_1D) > objective.remaining:
                break
            cost, accuracy = objective(tokens_1D)
            reward = float(composite_score(cost, accuracy, trained_K[[condition]], span)[0])
            log_prob, entropy = controller.log_prob_and_entropy(raw_D, condition)
            loss = -log_prob * (reward * REWARD_SCALE) - ENTROPY_WEIGHT * entropy
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            bar.step()
            if iteration % VALIDATE_EVERY == 0:
                for place, budget in enumerate(trained_K):
                    drawn = draw(place)
                    if objective.num_unseen(drawn) <= objective.remaining:
                        best = answer_from(drawn, *objective(drawn))(np.array([budget]), objective)
                        kept += [best] if best[0, 0] != NO_ANSWER else []

    def answer(budgets_B: Floats, counted: RememberingObjective) -> Tokens:
        places = np.clip(np.searchsorted(trained_K, budgets_B, side="right") - 1, 0, NUM_CONDITIONS - 1)
        answers = []
        for budget, place in zip(budgets_B, places, strict=True):
            tokens_ND = np.concatenate([draw(int(place)), *kept])
            answers.append(answer_from(tokens_ND, *counted(tokens_ND))(np.array([budget]), counted)[0])
        return np.stack(answers)

    return answer
