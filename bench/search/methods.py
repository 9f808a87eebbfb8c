"""The methods that are compared, all behind one small interface and all under the same counted evaluator.

A method is fitted once, on an objective that counts; what comes out answers any budgets. Fitting may look at the space,
the cost and the objective; only methods that search anew for each budget (`per_budget`) may look at the test budgets,
and they share the allowance among them.

Axis letters: N = architectures, D = decisions, B = budgets, S = samples per budget.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pnag.bench.search.official import (
    ENTROPY_WEIGHT,
    ITERATIONS,
    LEARNING_RATE,
    NUM_CONDITIONS,
    NUM_SAMPLES,
    REWARD_SCALE,
    VALIDATE_EVERY,
    OfficialController,
)
from pnag.bench.search.problem import Problem, best_of
from pnag.models.cost.additive import macs_cost
from pnag.models.policy.generator import Generator
from pnag.models.space.search_space import Tokens
from pnag.trainer.checkpoint import Checkpoint
from pnag.trainer.config import ReinforceConfig, TrainConfig
from pnag.trainer.evaluator.dominance import composite_score
from pnag.trainer.generator.archive import Archive, neighbours, search_archive
from pnag.trainer.generator.objective import Objective, RememberingObjective
from pnag.trainer.generator.policy_run import PolicyRun, sample
from pnag.trainer.generator.reinforce import composite, reinforce
from pnag.trainer.generator.train import GeneratorTask, train_generator
from pnag.trainer.generator.variation import crossover, mutate
from pnag.trainer.progress import SILENT, Progress

Floats = NDArray[np.float64]

Answerer = Callable[[Floats, RememberingObjective], Tokens]
"""(budgets [B], an objective that counts what answering asks) -> one architecture per budget [B, D].

A row of `NO_ANSWER` means that the method has none.
"""
NO_ANSWER = -2

_EVO_POPULATION, _EVO_PARENTS, _EVO_MUTATED, _EVO_MUTATION, _EVO_PATIENCE = 50, 0.25, 0.5, 0.1, 20
_NAS_MO_SAMPLES = 16
_NSGA2_POPULATION = 100


@dataclass(frozen=True)
class Run:
    """How one method is run.

    Attributes:
        allowance: different architectures that fitting may ask the evaluator about.
        samples: that a policy draws per budget when answering.
    """

    problem: Problem
    allowance: int
    samples: int
    seed: int
    config: TrainConfig
    progress: Progress
    shared: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """One row of the comparison.

    Attributes:
        per_budget: searches anew for each test budget, and so sees them.
        is_policy: answers by sampling, so answering asks the evaluator too.
    """

    name: str
    about: str
    fit: Callable[[Run, RememberingObjective], Answerer]
    per_budget: bool = False
    is_policy: bool = False


def _pool(tokens_ND: Tokens, cost_N: Floats, accuracy_N: Floats) -> Answerer:
    """Answers with the best of a fixed set of evaluated architectures."""

    def answer(budgets_B: Floats, _objective: RememberingObjective) -> Tokens:
        places_B = best_of(cost_N, accuracy_N, budgets_B)
        answers = tokens_ND[np.maximum(places_B, 0)].copy()
        answers[places_B < 0] = NO_ANSWER
        return answers

    return answer


# -- search without a generator ----------------------------------------------------------------------------------------


def _random(run: Run, objective: RememberingObjective) -> Answerer:
    rng = np.random.default_rng([run.seed, 10])
    for _ in range(1000):
        tokens_ND = run.problem.space.sample(min(4096, max(objective.remaining, 1)), rng)
        if not _ask_what_is_left(objective, tokens_ND):
            break
    return _pool(*objective.seen())


def _evolution_per_budget(run: Run, objective: RememberingObjective) -> Answerer:
    """Regularised as OFA's evolutionary finder: a quarter survives, half the children mutate, half are crossed.

    What does not fit is thrown away before it is evaluated. Unlike there, the first population is drawn under the slack
    mask: rejection alone finds nothing at tight budgets.
    """
    space, cost = run.problem.space, run.problem.cost
    rng = np.random.default_rng([run.seed, 11])
    uniform = _uniform_policy(run.problem)
    share = run.allowance // len(run.problem.budgets_B)
    size = max(4, min(_EVO_POPULATION, share // 4))
    answers = []
    for budget in run.problem.budgets_B:
        memory = RememberingObjective(objective.cost, objective.accuracy, limit=share)
        population = sample(uniform, np.full(size, budget), rng)
        _ask_what_is_left(memory, population[cost(population) <= budget])
        stale = 0
        while memory.remaining > 0 and stale < _EVO_PATIENCE:
            tokens_ND, cost_N, accuracy_N = memory.seen()
            parents = tokens_ND[np.lexsort((cost_N, -accuracy_N))[: max(2, int(size * _EVO_PARENTS))]]
            first, second = (parents[rng.integers(0, len(parents), 4 * size)] for _ in range(2))
            is_mutant = rng.random((4 * size, 1)) < _EVO_MUTATED
            children = np.where(
                is_mutant, mutate(space, first, _EVO_MUTATION, rng), crossover(space, first, second, rng)
            )
            before = memory.calls
            _ask_what_is_left(memory, children[cost(children) <= budget][:size])
            stale = stale + 1 if memory.calls == before else 0
        objective.calls += memory.calls
        answers.append(_pool(*memory.seen())(np.array([budget]), memory)[0])

    def answer(budgets_B: Floats, _objective: RememberingObjective) -> Tokens:
        assert np.array_equal(budgets_B, run.problem.budgets_B), "EVO has searched for the test budgets alone"
        return np.stack(answers)

    return answer


def _nsga2(run: Run, objective: RememberingObjective) -> Answerer:
    """pymoo's NSGA-II on (cost, -accuracy); answers from everything it evaluated, not only its last population."""
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import Problem as PymooProblem
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling
    from pymoo.optimize import minimize

    space = run.problem.space
    population = max(8, min(_NSGA2_POPULATION, run.allowance // 10))

    class Search(PymooProblem):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(n_var=len(space.decisions), n_obj=2, xl=0, xu=space.num_options_D - 1, vtype=int)

        def _evaluate(self, x: NDArray[np.int64], out: dict[str, Floats], *_args: object, **_kwargs: object) -> None:
            tokens_ND = space.canonical(x.astype(np.int64))
            if objective.num_unseen(tokens_ND) > objective.remaining:
                # Over the allowance: worst values, so that nothing is learned from what was not paid for.
                out["F"] = np.full((len(x), 2), 1e9)
                return
            cost_N, accuracy_N = objective(tokens_ND)
            out["F"] = np.stack([cost_N, -accuracy_N], axis=1)

    rounding = RoundingRepair()
    algorithm = NSGA2(
        pop_size=population,
        sampling=IntegerRandomSampling(),
        crossover=SBX(prob=0.9, eta=3.0, vtype=float, repair=rounding),
        mutation=PM(prob=1.0, prob_var=1.5 / len(space.decisions), eta=3.0, vtype=float, repair=rounding),
        eliminate_duplicates=True,
    )
    # Repeats are free, so a small space needs more generations than the allowance pays for.
    minimize(Search(), algorithm, ("n_gen", 2 * max(1, run.allowance // population)), seed=run.seed, verbose=False)
    return _pool(*objective.seen())


def _archive_alone(run: Run, objective: RememberingObjective) -> Answerer:
    problem = run.problem
    archive = search_archive(
        problem.space, problem.slack, objective, run.config.archive, np.random.default_rng([run.seed, 0]), run.progress
    )
    # What our generator is allowed for its questions, the archive spends on searching on.
    while objective.remaining > 0 and archive.tokens_ND is not None:
        before = objective.calls
        archive.add(neighbours(problem.space, archive.tokens_ND))
        if objective.calls == before:
            break
    assert archive.tokens_ND is not None
    return _pool(archive.tokens_ND, archive.cost_N, archive.accuracy_N)


def _macs_only(run: Run, _objective: RememberingObjective) -> Answerer:
    """The largest network that fits, by MACs (by the cost itself where that is MACs): no evaluator at all."""
    problem = run.problem
    size = macs_cost(problem.space)
    free = RememberingObjective(problem.cost, lambda tokens: size(tokens) / 1e12)
    if problem.is_enumerable:
        tokens_ND = problem.everything()
        return _pool(tokens_ND, *free(tokens_ND))
    rng = np.random.default_rng([run.seed, 0])
    archive = search_archive(
        problem.space, problem.slack, free, replace(run.config.archive, local_search_rounds=3), rng, run.progress
    )
    assert archive.tokens_ND is not None
    return _pool(archive.tokens_ND, archive.cost_N, archive.accuracy_N)


def _exhaustive(run: Run, objective: RememberingObjective) -> Answerer:
    tokens_ND = run.problem.everything()
    unlimited = Objective(objective.cost, objective.accuracy)
    cost_N, accuracy_N = unlimited(tokens_ND)
    objective.calls = unlimited.calls
    return _pool(tokens_ND, cost_N, accuracy_N)


# -- policies ----------------------------------------------------------------------------------------------------------


def _policy(samples: int, seed: int, generator: Generator, memory_ND: Tokens | None = None) -> Answerer:
    """Answers with the best of S samples per budget, the greedy one among them; with `memory_ND`, or of those."""

    def answer(budgets_B: Floats, objective: RememberingObjective) -> Tokens:
        rng = np.random.default_rng([seed, 20])
        answers = []
        for budget in budgets_B:
            tokens_ND = sample(generator, np.full(samples, budget), rng)
            if memory_ND is not None:
                tokens_ND = np.concatenate([tokens_ND, memory_ND])
            answers.append(_pool(tokens_ND, *objective(tokens_ND))(np.array([budget]), objective)[0])
        return np.stack(answers)

    return answer


def _trained(run: Run, objective: RememberingObjective) -> tuple[Archive, Generator]:
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


def _elite_imitation(run: Run, objective: RememberingObjective) -> Answerer:
    return _policy(run.samples, run.seed, _trained(run, objective)[1])


def _elite_imitation_with_memory(run: Run, objective: RememberingObjective) -> Answerer:
    """What a bundle does: the generator's samples, and the front it was trained on as the floor."""
    archive, generator = _trained(run, objective)
    assert archive.tokens_ND is not None
    return _policy(run.samples, run.seed, generator, archive.tokens_ND[archive.front_indices()])


def _reinforce(run: Run, objective: RememberingObjective) -> Answerer:
    config = replace(
        run.config,
        seed=run.seed,
        generator=replace(run.config.generator, method="reinforce"),
        reinforce=_reinforce_within(run.config.reinforce, run),
    )
    _, generator = train_generator(GeneratorTask(run.problem.space, run.problem.slack, objective, config), run.progress)
    return _policy(run.samples, run.seed, generator)


def _reinforce_within(config: ReinforceConfig, run: Run) -> ReinforceConfig:
    """As many steps as the allowance pays for; on a small space repeats are free, so it gets three times as many."""
    samples = config.samples if run.allowance >= 100 * config.budgets * config.samples else 4
    times = 3 if run.problem.is_enumerable else 1
    return replace(config, samples=samples, steps=max(20, times * run.allowance // (config.budgets * samples)))


def _nas_mo(run: Run, objective: RememberingObjective) -> Answerer:
    """The same policy and the same policy gradient, trained anew for each budget alone (the paper's NAS-MO)."""
    problem = run.problem
    share = run.allowance // len(problem.budgets_B)
    samples = _NAS_MO_SAMPLES if share >= 20 * _NAS_MO_SAMPLES else 4
    config = ReinforceConfig(steps=max(4, share // samples), budgets=1, samples=samples, learning_rate=1e-2)
    policies = []
    with run.progress.stage("policy per budget", len(problem.budgets_B)) as bar:
        for number, budget in enumerate(problem.budgets_B):
            torch.manual_seed(run.seed * 1000 + number)
            memory = RememberingObjective(objective.cost, objective.accuracy, limit=share)
            generator = _new_policy(problem, run.config.generator.embedding, run.config.generator.hidden)
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


def _official(run: Run, objective: RememberingObjective) -> Answerer:
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
                        best = _pool(drawn, *objective(drawn))(np.array([budget]), objective)
                        kept += [best] if best[0, 0] != NO_ANSWER else []

    def answer(budgets_B: Floats, counted: RememberingObjective) -> Tokens:
        places = np.clip(np.searchsorted(trained_K, budgets_B, side="right") - 1, 0, NUM_CONDITIONS - 1)
        answers = []
        for budget, place in zip(budgets_B, places, strict=True):
            tokens_ND = np.concatenate([draw(int(place)), *kept])
            answers.append(_pool(tokens_ND, *counted(tokens_ND))(np.array([budget]), counted)[0])
        return np.stack(answers)

    return answer


def _new_policy(problem: Problem, embedding: int, hidden: int) -> Generator:
    return Generator(problem.space, problem.slack, problem.low, problem.high, embedding, hidden)


def _uniform_policy(problem: Problem) -> Generator:
    """Each option that still fits with equal chance."""
    generator = _new_policy(problem, 1, 1)
    torch.nn.init.zeros_(generator.head_DHC)
    return generator


def _ask_what_is_left(objective: RememberingObjective, tokens_ND: Tokens) -> bool:
    """Ask about as many as the allowance still pays for; False when it is spent."""
    tokens_ND = np.unique(tokens_ND, axis=0)
    while len(tokens_ND) and objective.num_unseen(tokens_ND) > objective.remaining:
        tokens_ND = tokens_ND[: max(objective.remaining, len(tokens_ND) // 2)]
        if objective.remaining == 0:
            break
    if len(tokens_ND) and objective.num_unseen(tokens_ND) <= objective.remaining:
        objective(tokens_ND)
    return objective.remaining > 0


METHODS = {
    method.name: method
    for method in (
        Method("elite-imitation", "ours: a policy that imitates an elite archive", _elite_imitation, is_policy=True),
        Method(
            "elite-imitation+front", "ours as a bundle answers: samples, and the archive's front as the floor",
            _elite_imitation_with_memory, is_policy=True,
        ),
        Method("archive", "our archive's evolution and local search, no generator", _archive_alone),
        Method("reinforce", "the same policy by policy gradient, budgets jointly (eq. 2)", _reinforce, is_policy=True),
        Method(
            "nas-mo", "the same policy gradient, one policy per test budget", _nas_mo, per_budget=True, is_policy=True
        ),
        Method("evo", "one evolutionary search per budget, as OFA's finder", _evolution_per_budget, per_budget=True),
        Method("nsga2", "pymoo's NSGA-II, answers from all it evaluated", _nsga2),
        Method("official-pnag", "the official code: batch 1, no baseline, 5 budgets", _official, is_policy=True),
        Method("random", "uniform samples", _random),
        Method("macs-only", "the network with most MACs that fits; asks no evaluator", _macs_only),
        Method("exhaustive", "looks at everything (small spaces)", _exhaustive),
    )
}  # fmt: skip
