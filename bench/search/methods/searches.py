"""Methods that search without a generator.

Axis letters: N = architectures, D = decisions, B = budgets.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pnag.bench.search.methods.run import (
    FittedMethod,
    Floats,
    MethodRun,
    answer_from,
    ask_what_is_left,
    uniform_policy,
)
from pnag.models.cost.additive import macs_cost
from pnag.models.space.search_space import Tokens
from pnag.trainer.generator.archive import neighbours, search_archive
from pnag.trainer.generator.objective import Objective, RememberingObjective
from pnag.trainer.generator.policy_run import sample
from pnag.trainer.generator.variation import crossover, mutate

_EVO_POPULATION, _EVO_PARENTS, _EVO_MUTATED, _EVO_MUTATION, _EVO_PATIENCE = 50, 0.25, 0.5, 0.1, 20
_NSGA2_POPULATION = 100


def random_samples(run: MethodRun, objective: RememberingObjective) -> FittedMethod:
    rng = np.random.default_rng([run.seed, 10])
    for _ in range(1000):
        tokens_ND = run.problem.space.sample(min(4096, max(objective.remaining, 1)), rng)
        if not ask_what_is_left(objective, tokens_ND):
            break
    return answer_from(*objective.seen())


def evolution_per_budget(run: MethodRun, objective: RememberingObjective) -> FittedMethod:
    """Regularised as OFA's evolutionary finder: a quarter survives, half the children mutate, half are crossed.

    What does not fit is thrown away before it is evaluated. Unlike there, the first population is drawn under the slack
    mask: rejection alone finds nothing at tight budgets.
    """
    space, cost = run.problem.space, run.problem.cost
    rng = np.random.default_rng([run.seed, 11])
    uniform = uniform_policy(run.problem)
    share = run.allowance // len(run.problem.budgets_B)
    size = max(4, min(_EVO_POPULATION, share // 4))
    answers = []
    for budget in run.problem.budgets_B:
        memory = RememberingObjective(objective.cost, objective.accuracy, limit=share)
        population = sample(uniform, np.full(size, budget), rng)
        ask_what_is_left(memory, population[cost(population) <= budget])
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
            ask_what_is_left(memory, children[cost(children) <= budget][:size])
            stale = stale + 1 if memory.calls == before else 0
        objective.calls += memory.calls
        answers.append(answer_from(*memory.seen())(np.array([budget]), memory)[0])

    def answer(budgets_B: Floats, _objective: RememberingObjective) -> Tokens:
        assert np.array_equal(budgets_B, run.problem.budgets_B), "EVO has searched for the test budgets alone"
        return np.stack(answers)

    return answer


def nsga2(run: MethodRun, objective: RememberingObjective) -> FittedMethod:
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
    return answer_from(*objective.seen())


def archive_alone(run: MethodRun, objective: RememberingObjective) -> FittedMethod:
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
    return answer_from(archive.tokens_ND, archive.cost_N, archive.accuracy_N)


def macs_only(run: MethodRun, _objective: RememberingObjective) -> FittedMethod:
    """The largest network that fits, by MACs (by the cost itself where that is MACs): no evaluator at all."""
    problem = run.problem
    size = macs_cost(problem.space)
    free = RememberingObjective(problem.cost, lambda tokens: size(tokens) / 1e12)
    if problem.is_enumerable:
        tokens_ND = problem.everything()
        return answer_from(tokens_ND, *free(tokens_ND))
    rng = np.random.default_rng([run.seed, 0])
    archive = search_archive(
        problem.space, problem.slack, free, replace(run.config.archive, local_search_rounds=3), rng, run.progress
    )
    assert archive.tokens_ND is not None
    return answer_from(archive.tokens_ND, archive.cost_N, archive.accuracy_N)


def exhaustive(run: MethodRun, objective: RememberingObjective) -> FittedMethod:
    tokens_ND = run.problem.everything()
    unlimited = Objective(objective.cost, objective.accuracy)
    cost_N, accuracy_N = unlimited(tokens_ND)
    objective.calls = unlimited.calls
    return answer_from(tokens_ND, cost_N, accuracy_N)
