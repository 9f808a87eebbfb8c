"""Answer budgets with a bundle in ONNX Runtime: sample candidates, check each exactly, keep the best that fits.

Axis letters: B = budgets in a run, S = candidates per budget, D = decisions, F = networks of the front,
N = architectures, K = costs (latency_ms, macs, params, in this order). Knows nothing of HTTP, and never imports torch.
"""

import copy
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pnag.models.accuracy.features import ArchitectureFeatures
from pnag.models.answer.limits import BYTES_PER_NUMBER, COSTS, LimitUnits
from pnag.models.answer.question import Answer, Candidate, Prediction, Query
from pnag.models.answer.recent import Recent
from pnag.models.answer.samples import Floats, NetworkValues, distinct, gumbel_noise, row_keys
from pnag.models.answer.sessions import Session, open_session, run_evaluator
from pnag.models.bundle.bundle import EVALUATOR, GENERATOR, Bundle
from pnag.models.errors import BudgetError, BundleError, InfeasibleBudgetError
from pnag.models.pareto import pareto_front
from pnag.models.space.search_space import Architecture, Tokens

DEFAULT_NUM_CANDIDATES = 32

REMEMBERED_ACCURACIES = 20_000
"""Networks whose predicted accuracy is kept, some 250 bytes each."""

REMEMBERED_ANSWERS = 4000
"""Networks that were an answer and are kept as such: most budgets are answered with one of a thousand or two."""

# A limited request also samples at these fractions of the feasible range below its budget: with a limit that binds, the
# best network is often one that a smaller budget would have got.
_LOWER_BUDGETS = (0.85, 0.7, 0.55, 0.4, 0.25, 0.1)


class OnnxGenerator:
    """A loaded bundle that answers. Safe to call from several threads; answers depend on the query alone.

    Raises:
        BundleError: if an ONNX file does not load or has other shapes than the search space asks for.
    """

    def __init__(self, bundle: Bundle, *, num_candidates: int = DEFAULT_NUM_CANDIDATES, threads: int = 1) -> None:
        self.bundle = bundle
        self.num_candidates = num_candidates
        self._space = space = bundle.space
        self._seed = int(bundle.manifest["generator"].get("seed", 0))
        self._generator = _open(bundle, GENERATOR, threads)
        self._evaluator = _open(bundle, EVALUATOR, threads)
        self._threads = threads
        self._accuracies = Recent[bytes, float](REMEMBERED_ACCURACIES)
        self._architectures = Recent[bytes, Architecture](REMEMBERED_ANSWERS)
        self._width = int(space.num_options_D.max())
        self._features = ArchitectureFeatures(space)
        self._costs = bundle.costs()
        self._metric = bundle.metric
        precision = bundle.latency_table.device.precision or "fp32"
        self._bytes = BYTES_PER_NUMBER.get(precision, 4)
        self._limits = LimitUnits(bundle.name, self._costs, self._bytes)
        # The front as tokens, rising in latency and accuracy by what the table and the evaluator say here and now.
        self._front_FD = bundle.front_FD
        self._check_shapes()
        values = self._evaluate(self._front_FD)
        rising_F = pareto_front(values.latency_ms, values.accuracy)
        self._front_FD, self._front = self._front_FD[rising_F], values.take(rising_F)
        self.range_ms = (float(self._front.latency_ms.min()), float(self._front.latency_ms.max()))

    def clone(self) -> "OnnxGenerator":
        """Copy for another thread, which shares everything with this one but the sessions."""
        clone = copy.copy(self)
        clone._generator = _open(self.bundle, GENERATOR, self._threads)
        clone._evaluator = _open(self.bundle, EVALUATOR, self._threads)
        return clone

    # -- questions ---------------------------------------------------------------------------------------------------

    def generate(self, query: Query) -> Answer:
        """The most accurate network that fits.

        Raises:
            InfeasibleBudgetError: with the smallest budget that has an answer, and the network that reaches it.
            BudgetError: if the table cannot promise the asked coverage.
        """
        result = self.generate_many([query])[0]
        if isinstance(result, BudgetError):
            raise result
        return result

    def generate_many(self, queries: Sequence[Query]) -> list[Answer | BudgetError]:
        """`generate` for several queries in one run of the generator; a query that fails leaves the others alone."""
        results: list[Answer | BudgetError | None] = [None] * len(queries)
        plain_ms: dict[int, float] = {}  # the budget on the plain prediction that keeps the bound
        rows: list[tuple[int, float]] = []  # (query, plain budget) of each run of S candidates
        lowest = self.range_ms[0]
        for number, query in enumerate(queries):
            try:
                self._limits.check_known(query.limits)
                budget = query.budget_ms / self._factor(query.coverage)
                if budget < lowest:
                    raise self._infeasible(query)
            except BudgetError as exc:
                results[number] = exc
                continue
            plain_ms[number] = budget
            rows.append((number, budget))
            if query.limits.items():
                top = min(budget, self.range_ms[1])
                rows += [(number, lowest + (top - lowest) * fraction) for fraction in _LOWER_BUDGETS]
        if not rows:  # nobody's budget is feasible
            return results  # type: ignore[return-value]
        samples_ND, places_BS = distinct(self._sample(queries, rows))
        values = self._evaluate(samples_ND)
        # Where the mask cannot rule out every forbidden combination, none of them fits any budget.
        values.latency_ms[~self._costs.allowed(samples_ND)] = np.inf
        # Best first, so that of any of them the best are those with the smallest places.
        best_first = values.best_first()
        samples_ND, values = samples_ND[best_first], values.take(best_first)
        places_BS = np.argsort(best_first)[places_BS]
        owners = np.array([number for number, _ in rows], dtype=np.int64)
        for number, budget in plain_ms.items():
            places = np.unique(places_BS[owners == number])
            try:
                results[number] = self._select(queries[number], budget, samples_ND, values, places)
            except BudgetError as exc:
                results[number] = exc
        assert all(result is not None for result in results)
        return results  # type: ignore[return-value]

    def predict(self, encodings: Sequence[str], coverage: float | None = None) -> list[Candidate]:
        """Predictions for architectures of the bundle's space.

        Raises:
            EncodingError: naming the bad place of the first encoding that is not an architecture.
        """
        tokens_ND = np.stack([self._space.decode(encoding) for encoding in encodings])
        return self._candidates(tokens_ND, self._evaluate(tokens_ND), coverage)

    def pareto_front(
        self, *, min_ms: float = 0.0, max_ms: float = math.inf, points: int | None = None, coverage: float | None = None
    ) -> list[Candidate]:
        """The front's networks whose upper latency is within [min_ms, max_ms], thinned evenly to `points`."""
        upper_F = self._front.latency_ms * self._factor(coverage)
        chosen = np.flatnonzero((upper_F >= min_ms) & (upper_F <= max_ms))
        if points is not None and points < len(chosen):
            chosen = chosen[np.unique(np.linspace(0, len(chosen) - 1, points).round().astype(np.int64))]
        return self._candidates(self._front_FD[chosen], self._front.take(chosen), coverage)

    def smallest_feasible_ms(self, coverage: float | None = None) -> float:
        """The smallest budget with an answer, rounded up to the 3 decimals that budgets are told apart by."""
        return math.ceil(self.range_ms[0] * self._factor(coverage) * 1000 - 1e-6) / 1000

    # -- the steps ---------------------------------------------------------------------------------------------------

    def _sample(self, queries: Sequence[Query], rows: Sequence[tuple[int, float]]) -> Tokens:
        """Candidates for each row, shape [rows, S, D]; the first of each row is the greedy one."""
        limits_BK = np.array(
            [[budget, *self._limits.mask_limits(queries[n].limits)] for n, budget in rows], dtype=np.float32
        )
        shape = (self.num_candidates, len(self._space.decisions), self._width)
        noise_BSDC = gumbel_noise(self._seed, [budget for _, budget in rows], shape)
        tokens_BSD: Tokens = self._generator.run(None, {"limits": limits_BK, "noise": noise_BSDC})[0]
        return tokens_BSD

    def _select(
        self, query: Query, budget: float, samples_ND: Tokens, values: NetworkValues, places: NDArray[np.int64]
    ) -> Answer:
        """Check this query's samples exactly, put the best of the front beside them, and keep the best that fits.

        Args:
            samples_ND, values: of all queries, best first.
            places: which of them are this query's, rising.
        """
        count = 1 + query.num_alternatives
        sampled = self._fitting(values, query, budget, places)[:count]
        # A network that was sampled too must not appear twice, so look a little further down the front.
        remembered = self._best_of_front(query, budget)[: 2 * count]
        pool: dict[bytes, tuple[str, Tokens, list[float]]] = {}
        for i in sampled:
            pool[samples_ND[i].tobytes()] = "generator", samples_ND[i], values.of(i)
        for i in remembered:
            pool.setdefault(self._front_FD[i].tobytes(), ("front", self._front_FD[i], self._front.of(i)))
        best_first = sorted(pool.values(), key=lambda one: (-one[2][0], one[2][1]))[:count]
        if not best_first:
            raise self._infeasible(query)
        best, *others = [self._candidate(tokens_D, known, query.coverage) for _, tokens_D, known in best_first]
        return Answer(query.budget_ms, best, self._binding(query, best.predicted), best_first[0][0], tuple(others))

    def _fitting(
        self, values: NetworkValues, query: Query, budget: float, places: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Places among `places` of networks that keep budget and limits."""
        fits = values.latency_ms[places] <= budget
        for name, value in query.limits.items():
            fits &= self._limits.amounts(values, name)[places] <= value
        return places[fits]

    def _best_of_front(self, query: Query, budget: float) -> NDArray[np.int64]:
        """Places of the front that keep budget and limits, best first; nothing to sort, it rises in both columns."""
        found = np.arange(np.searchsorted(self._front.latency_ms, budget, side="right"))[::-1]
        return self._fitting(self._front, query, budget, found) if query.limits.items() else found

    def _binding(self, query: Query, predicted: Prediction) -> str:
        """The limit whose use is closest to 1; "none" when even the largest of the front leaves room everywhere."""
        use = {"latency": predicted.latency_upper_ms / query.budget_ms}
        if predicted.latency_ms >= self.range_ms[1]:
            use["latency"] = 0.0
        amounts = {
            "macs_m": predicted.macs,
            "params_m": predicted.params,
            "size_mb": predicted.size_bytes,
            "peak_memory_mb": predicted.peak_memory_bytes,
        }
        for name, value in query.limits.items():
            use[name.rsplit("_", 1)[0]] = (amounts[name] or 0) / 1e6 / value
        name = max(use, key=use.__getitem__)
        return name if use[name] > 0 else "none"

    def _infeasible(self, query: Query) -> InfeasibleBudgetError:
        cheapest = self.bundle.front[0].encoding
        values = self._evaluate(self._front_FD[:1])
        for name, value in query.limits.items():
            amount = float(self._limits.amounts(values, name)[0])
            if amount > value:
                return InfeasibleBudgetError(
                    f"limits.{name} is {value:g}, and the fastest network of {self.bundle.name} needs {amount:.4g}; "
                    "raise that limit",
                    encoding=cheapest,
                )
        smallest = self.smallest_feasible_ms(query.coverage)
        return InfeasibleBudgetError(
            f"budget_ms is {query.budget_ms:g}, and the fastest network of {self.bundle.name} needs {smallest:g} at "
            f"coverage {self._coverage(query.coverage):g}; ask for at least that",
            smallest_feasible_ms=smallest,
            encoding=cheapest,
        )

    def _evaluate(self, tokens_ND: Tokens) -> NetworkValues:
        costs = self._costs
        accuracy_N = self._accuracy(tokens_ND)
        if costs.measured_accuracy is not None:
            measured_N = costs.measured_accuracy(tokens_ND)
            accuracy_N = np.where(np.isnan(measured_N), accuracy_N, measured_N)
        unknown_N = np.full(len(tokens_ND), np.nan)
        sizes = (size(tokens_ND) if size else unknown_N for size in (costs.macs, costs.params, costs.peak_activations))
        return NetworkValues(np.stack([accuracy_N, costs.latency_ms(tokens_ND), *sizes]))

    def _accuracy(self, tokens_ND: Tokens) -> Floats:
        """Predicted accuracy, shape [N]. Samples of one budget come up again for others, two of three of them."""
        keys = row_keys(tokens_ND)
        accuracy_N = np.array([self._accuracies.get(key) for key in keys], dtype=np.float64)  # NaN for None
        new = np.flatnonzero(np.isnan(accuracy_N))
        if len(new):
            accuracy_N[new] = run_evaluator(self._evaluator, self._features(tokens_ND[new]))
            for i in new.tolist():
                self._accuracies.put(keys[i], float(accuracy_N[i]))
        return accuracy_N

    def _candidates(self, tokens_ND: Tokens, values: NetworkValues, coverage: float | None) -> list[Candidate]:
        return [self._candidate(tokens_D, values.of(i), coverage) for i, tokens_D in enumerate(tokens_ND)]

    def _candidate(self, tokens_D: Tokens, known: Sequence[float], coverage: float | None) -> Candidate:
        """With its prediction.

        Args:
            known: its accuracy, latency_ms, macs, params and peak_activations.
        """
        accuracy, latency_ms, macs, *sizes = known
        interval = self.bundle.interval
        accuracy_interval = _accuracy_interval(accuracy, interval[1]) if interval else None
        params, peak = map(_known, sizes)
        return Candidate(
            self._architecture(tokens_D),
            Prediction(
                accuracy=accuracy,
                accuracy_interval=accuracy_interval,
                interval_coverage=interval[0] if interval else None,
                latency_ms=latency_ms,
                latency_upper_ms=latency_ms * self._factor(coverage),
                latency_coverage=self._coverage(coverage),
                macs=_known(macs),
                params=params,
                size_bytes=None if params is None else params * self._bytes,
                peak_memory_bytes=None if peak is None else peak * self._bytes,
                metric=self._metric.describe(accuracy, accuracy_interval) if self._metric else None,
            ),
        )

    def _architecture(self, tokens_D: Tokens) -> Architecture:
        key = tokens_D.tobytes()
        architecture = self._architectures.get(key)
        if architecture is None:
            architecture = Architecture(self._space.name, self._space.spell(tokens_D))
            self._architectures.put(key, architecture)
        return architecture

    def _coverage(self, coverage: float | None) -> float:
        return self.bundle.latency_table.default_coverage if coverage is None else coverage

    def _factor(self, coverage: float | None) -> float:
        return self.bundle.latency_table.bound_factor(self._coverage(coverage))

    def _check_shapes(self) -> None:
        num_features = self._features(self._front_FD[:1]).shape[1]
        wanted = {
            GENERATOR: {"limits": [len(COSTS)], "noise": [len(self._space.decisions), self._width]},
            EVALUATOR: {"features": [num_features]},
        }
        for name, session in ((GENERATOR, self._generator), (EVALUATOR, self._evaluator)):
            shapes = {i.name: list(i.shape) for i in session.get_inputs()}
            for tensor, tail in wanted[name].items():
                if shapes.get(tensor, [])[-len(tail) :] != tail:
                    raise BundleError(
                        f"{self.bundle.name}/{name}: input {tensor} has shape {shapes.get(tensor)}; "
                        f"the search space asks for it to end in {tail}"
                    )


def _open(bundle: Bundle, name: str, threads: int) -> Session:
    try:
        return open_session(bundle.contents[name], threads)
    except Exception as exc:  # onnxruntime raises its own unrelated classes
        raise BundleError(f"{bundle.name}/{name}: ONNX Runtime cannot load it ({exc})") from exc


def _accuracy_interval(accuracy: float, half_width: float) -> tuple[float, float]:
    """The evaluator's error is even in log(1 - accuracy): the interval is wider where accuracy is low."""
    gap = 1.0 - accuracy
    return max(0.0, 1.0 - gap * math.exp(half_width)), 1.0 - gap * math.exp(-half_width)


def _known(amount: float) -> int | None:
    return None if math.isnan(amount) else int(amount)
