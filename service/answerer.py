"""One question, one answer: which bundle, is it in a cache, else ask the generator.

Everything that answers budgets comes through here: the hot path, the routes, batches and KServe.
"""

from dataclasses import dataclass
from typing import Any

from cachetools import LRUCache

from models.errors import InfeasibleBudgetError
from models.runtime import Limits, Query
from service.bodies import answer_body, architecture_body, to_json
from service.bundles import BundleStore, LoadedBundle
from service.errors import InfeasibleError
from service.schemas import BatchRequest, GenerateRequest

CacheKey = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """A ready answer, and where it came from: "memory", "redis" or "miss"."""

    content: bytes
    cache: str


class Answerer:
    """Answers generate requests with ready JSON bytes."""

    def __init__(self, bundles: BundleStore, *, cache_entries: int) -> None:
        self._bundles = bundles
        self._memory: LRUCache[CacheKey, bytes] = LRUCache(max(cache_entries, 1))
        self._keeps = cache_entries > 0

    async def answer(self, request: GenerateRequest) -> Reply:
        """The best network for a request, as JSON.

        Raises:
            UnknownBundleError, BundleRequiredError, BudgetError, InfeasibleError, OverloadedError.
        """
        return await self.answer_query(
            self._bundles.catalogue.get(request.bundle), query_of(request, request.budget_ms)
        )

    async def answer_query(self, bundle: LoadedBundle, query: Query) -> Reply:
        """The same, for one of many budgets."""
        key = cache_key(bundle, query)
        content = self._memory.get(key)
        if content is not None:
            return Reply(content, "memory")
        content = await self._generate(bundle, query)
        if self._keeps:
            self._memory[key] = content
        return Reply(content, "miss")

    async def _generate(self, bundle: LoadedBundle, query: Query) -> bytes:
        try:
            answer = await bundle.generate(query)
        except InfeasibleBudgetError as exc:
            raise _infeasible(bundle, exc) from exc
        for candidate in (answer.best, *answer.alternatives):
            bundle.remember(candidate.architecture.id, candidate.architecture.encoding)
        return to_json(answer_body(bundle.bundle, answer))


def query_of(request: GenerateRequest | BatchRequest, budget_ms: float) -> Query:
    """The runtime's question.

    Raises:
        BudgetError: if the budget is not a positive number once rounded down.
    """
    limits = Limits(**request.limits.model_dump()) if request.limits else Limits()
    return Query(budget_ms, limits, request.coverage, request.num_alternatives)


def cache_key(bundle: LoadedBundle, query: Query) -> CacheKey:
    """Equal for two questions exactly if they have the same answer: defaults are filled in, budgets are rounded."""
    coverage = bundle.bundle.latency_table.default_coverage if query.coverage is None else query.coverage
    limits = query.limits
    return (
        bundle.digest,
        bundle.generator.num_candidates,
        query.budget_ms,
        coverage,
        query.num_alternatives,
        limits.macs_m,
        limits.params_m,
        limits.size_mb,
        limits.peak_memory_mb,
    )


def _infeasible(bundle: LoadedBundle, exc: InfeasibleBudgetError) -> InfeasibleError:
    assert exc.encoding is not None, "the runtime names the network that comes nearest"
    architecture = bundle.space.architecture(exc.encoding)
    bundle.remember(architecture.id, architecture.encoding)
    return InfeasibleError(str(exc), exc.smallest_feasible_ms, architecture_body(bundle.space, architecture))
