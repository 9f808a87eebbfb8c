"""The methods that are compared, by name."""

from collections.abc import Callable
from dataclasses import dataclass

from pnag.bench.search.methods import policies, searches
from pnag.bench.search.methods.run import FittedMethod, MethodRun
from pnag.trainer.generator.objective import RememberingObjective


@dataclass(frozen=True)
class SearchMethod:
    """One row of the comparison."""

    name: str
    about: str
    fit: Callable[[MethodRun, RememberingObjective], FittedMethod]


METHODS = {
    method.name: method
    for method in (
        SearchMethod("elite-imitation", "ours: a policy that imitates an elite archive", policies.elite_imitation),
        SearchMethod(
            "elite-imitation+front", "ours as a bundle answers: samples, and the archive's front as the floor",
            policies.elite_imitation_with_front,
        ),
        SearchMethod("archive", "our archive's evolution and local search, no generator", searches.archive_alone),
        SearchMethod(
            "reinforce", "the same policy by policy gradient, budgets jointly (eq. 2)", policies.policy_gradient
        ),
        SearchMethod("nas-mo", "the same policy gradient, one policy per test budget", policies.policy_per_budget),
        SearchMethod("evo", "one evolutionary search per budget, as OFA's finder", searches.evolution_per_budget),
        SearchMethod("nsga2", "pymoo's NSGA-II, answers from all it evaluated", searches.nsga2),
        SearchMethod("official-pnag", "the official code: batch 1, no baseline, 5 budgets", policies.official_recipe),
        SearchMethod("random", "uniform samples", searches.random_samples),
        SearchMethod("macs-only", "the network with most MACs that fits; asks no evaluator", searches.macs_only),
        SearchMethod("exhaustive", "looks at everything (small spaces)", searches.exhaustive),
    )
}  # fmt: skip
