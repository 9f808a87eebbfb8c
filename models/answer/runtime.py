"""Answers budgets with a bundle in ONNX Runtime: sample candidates, check each exactly, keep the best that fits.

Axis letters: B = budgets in a run, S = candidates per budget, D = decisions, C = options of the widest decision,
K = costs (latency_ms, macs, params, in this order), N = architectures. Knows nothing of HTTP, and never imports torch.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from pnag.models.accuracy.features import ArchitectureFeatures
from pnag.models.answer.recent import Recent
from pnag.models.bundle.bundle import EVALUATOR, GENERATOR, Bundle
from pnag.models.errors import BudgetError, BundleError, InfeasibleBudgetError
from pnag.models.pareto import pareto_front
from pnag.models.space.metric import MetricValue
from pnag.models.space.search_space import Architecture, Tokens

Floats = NDArray[np.float64]

COSTS = ("latency_ms", "macs", "params")
NO_LIMIT = np.float32(3e38)
DEFAULT_NUM_CANDIDATES = 32
EVALUATED_AT_ONCE = 64
"""Architectures; each meets every training record, and ONNX Runtime keeps the memory of the largest run for good."""

REMEMBERED_ACCURACIES = 20_000
"""Networks whose predicted accuracy is kept, some 250 bytes each."""

REMEMBERED_ANSWERS = 4000
"""Networks that were an answer and are kept as such: most budgets are answered with one of a thousand or two."""

BYTES_PER_NUMBER = {"fp32": 4, "fp16": 2, "int8": 1}

# A limited request also samples at these fractions of the feasible range below its budget: with a limit that binds, the
# best network is often one that a smaller budget would have got.
_LOWER_BUDGETS = (0.85, 0.7, 0.55, 0.4, 0.25, 0.1)


@dataclass(frozen=True)
class Limits:
    """What a network must not exceed beside the latency budget; None = no limit."""

    macs_m: float | None = None
    """Millions of multiply-accumulates."""
    params_m: float | None = None
    """Millions of parameters."""
    size_mb: float | None = None
    """Megabytes (1e6 bytes) of weights at the table's precision."""
    peak_memory_mb: float | None = None
    """Megabytes of activations alive at the worst moment, batch 1, at the table's precision."""

    def __post_init__(self) -> None:
        for name, value in self.items():
            _check_positive(name, value)

    def items(self) -> list[tuple[str, float]]:
        """The limits that are set."""
        return [(name, value) for name, value in vars(self).items() if value is not None]


@dataclass(frozen=True)
class Query:
    """One question.

    Attributes:
        budget_ms: rounded down to 3 decimals, and answered for that.
        coverage: with which probability the answer keeps the budget when measured; None = the bundle's default.
        num_alternatives: further networks that fit, the next most accurate first.
    """

    budget_ms: float
    limits: Limits = field(default_factory=Limits)
    coverage: float | None = None
    num_alternatives: int = 0

    def __post_init__(self) -> None:
        _check_positive("budget_ms", self.budget_ms)
        rounded = math.floor(min(self.budget_ms, 1e12) * 1000 + 1e-6) / 1000
        if rounded <= 0:
            raise BudgetError(f"budget_ms is {self.budget_ms!r}; the smallest budget told apart is 0.001 ms")
        object.__setattr__(self, "budget_ms", rounded)


@dataclass(frozen=True)
class Prediction:
    """What the bundle expects of one network. Accuracies are fractions; latencies ms on the bundle's device.

    Sizes are None where nothing is known of them: a table-only space whose records have no such column. `metric` is
    what stands for accuracy there, None where it is accuracy itself.
    """

    accuracy: float
    accuracy_interval: tuple[float, float] | None
    interval_coverage: float | None
    latency_ms: float
    latency_upper_ms: float
    latency_coverage: float
    macs: int | None
    params: int | None
    size_bytes: int | None
    peak_memory_bytes: int | None
    metric: MetricValue | None = None


@dataclass(frozen=True)
class Candidate:
    """One network with its prediction."""

    architecture: Architecture
    predicted: Prediction


@dataclass(frozen=True)
class Answer:
    """The best network found within a query's limits.

    Attributes:
        budget_ms: the budget answered for.
        source: "generator" if a sample is the answer, "front" if only the bundle's front holds a network as good.
        binding: the limit that is nearest to being reached: "latency", "macs", "params", "size", "peak_memory", or
            "none" if the answer is the most accurate network of the whole front.
    """

    budget_ms: float
    best: Candidate
    binding: str
    source: str
    alternatives: tuple[Candidate, ...] = ()


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
        self._generator = _session(bundle, GENERATOR, threads)
        self._evaluator = _session(bundle, EVALUATOR, threads)
        self._threads = threads
        self._accuracies = Recent[bytes, float](REMEMBERED_ACCURACIES)
        self._architectures = Recent[bytes, Architecture](REMEMBERED_ANSWERS)
        self._width = int(space.num_options_D.max())
        self._features = ArchitectureFeatures(space)
        self._costs = bundle.costs()
        self._metric = bundle.metric
        precision = bundle.latency_table.device.precision or "fp32"
        self._bytes = BYTES_PER_NUMBER.get(precision, 4)
        # The front as tokens, rising in latency and accuracy by what the table and the evaluator say here and now.
        self._front_FD = bundle.front_FD
        self._check_shapes()
        values = self._evaluate(self._front_FD)
        rising_F = pareto_front(values.latency_ms, values.accuracy)
        self._front_FD, self._front = self._front_FD[rising_F], values.take(rising_F)
        self.range_ms = (float(self._front.latency_ms.min()), float(self._front.latency_ms.max()))

    def twin(self) -> "OnnxGenerator":
        """Another one for another thread, which shares everything with this one but the sessions."""
        twin = copy.copy(self)
        twin._generator = _session(self.bundle, GENERATOR, self._threads)
        twin._evaluator = _session(self.bundle, EVALUATOR, self._threads)
        return twin

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
                self._check_known(query.limits)
                budget = query.budget_ms / self.bundle.latency_table.bound_factor(self._coverage(query))
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
        samples_ND, places_BS = self._distinct(self._sample(queries, rows))
        values = self._evaluate(samples_ND)
        # Where the mask cannot rule out every forbidden combination, none of them fits any budget.
        values.latency_ms[~self._costs.allowed(samples_ND)] = np.inf
        # Best first, so that of any of them the best are those with the smallest places.
        best_first = _best_first(values)
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
        limits_BK = np.array([[budget, *self._cost_limits(queries[n].limits)] for n, budget in rows], dtype=np.float32)
        noise_BSDC = self._noise([budget for _, budget in rows])
        tokens_BSD: Tokens = self._generator.run(None, {"limits": limits_BK, "noise": noise_BSDC})[0]
        return tokens_BSD

    def _noise(self, budgets_ms: Sequence[float]) -> NDArray[np.float32]:
        """Gumbel noise [B, S, D, C]: by the bundle's seed and the budget alone; none for the first candidate."""
        shape = (self.num_candidates, len(self._space.decisions), self._width)
        noise_BSDC = np.empty((len(budgets_ms), *shape), dtype=np.float32)
        for budget_ms, noise_SDC in zip(budgets_ms, noise_BSDC, strict=True):
            np.random.default_rng([self._seed, round(budget_ms * 1e6)]).random(dtype=np.float32, out=noise_SDC)
        noise_BSDC *= np.float32(1 - 2e-7)
        noise_BSDC += np.float32(1e-7)
        for _ in range(2):
            np.log(noise_BSDC, out=noise_BSDC)
            np.negative(noise_BSDC, out=noise_BSDC)
        noise_BSDC[:, 0] = 0.0
        return noise_BSDC

    def _select(
        self, query: Query, budget: float, samples_ND: Tokens, values: "_Values", places: NDArray[np.int64]
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

    def _fitting(self, values: "_Values", query: Query, budget: float, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of the networks at `places` that keep budget and limits."""
        fits = values.latency_ms[places] <= budget
        for name, value in query.limits.items():
            fits &= self._limited(values, name)[places] <= value
        return places[fits]

    def _best_of_front(self, query: Query, budget: float) -> NDArray[np.int64]:
        """The same for the front: it rises in both columns, so there is nothing to sort."""
        found = np.arange(np.searchsorted(self._front.latency_ms, budget, side="right"))[::-1]
        return self._fitting(self._front, query, budget, found) if query.limits.items() else found

    @staticmethod
    def _distinct(tokens_BSD: Tokens) -> tuple[Tokens, NDArray[np.int64]]:
        """Each sampled architecture once, shape [N, D], and where each sample went, shape [B, S]."""
        rows_ND = tokens_BSD.reshape(-1, tokens_BSD.shape[2])
        first_of: dict[bytes, int] = {}  # np.unique would sort, which takes longer
        firsts = [first_of.setdefault(key, row) for row, key in enumerate(_keys(rows_ND))]
        place_of = {row: place for place, row in enumerate(first_of.values())}
        places_BS = np.array([place_of[row] for row in firsts], dtype=np.int64).reshape(tokens_BSD.shape[:2])
        return rows_ND[list(place_of)], places_BS

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
            amount = float(self._limited(values, name)[0])
            if amount > value:
                return InfeasibleBudgetError(
                    f"limits.{name} is {value:g}, and the fastest network of {self.bundle.name} needs {amount:.4g}; "
                    "raise that limit",
                    encoding=cheapest,
                )
        smallest = self.smallest_feasible_ms(query.coverage)
        return InfeasibleBudgetError(
            f"budget_ms is {query.budget_ms:g}, and the fastest network of {self.bundle.name} needs {smallest:g} at "
            f"coverage {self._coverage(query):g}; ask for at least that",
            smallest_feasible_ms=smallest,
            encoding=cheapest,
        )

    def _evaluate(self, tokens_ND: Tokens) -> "_Values":
        costs = self._costs
        accuracy_N = self._accuracy(tokens_ND)
        if costs.measured_accuracy is not None:
            measured_N = costs.measured_accuracy(tokens_ND)
            accuracy_N = np.where(np.isnan(measured_N), accuracy_N, measured_N)
        unknown_N = np.full(len(tokens_ND), np.nan)
        sizes = (size(tokens_ND) if size else unknown_N for size in (costs.macs, costs.params, costs.peak_activations))
        return _Values(np.stack([accuracy_N, costs.latency_ms(tokens_ND), *sizes]))

    def _accuracy(self, tokens_ND: Tokens) -> Floats:
        """Predicted accuracy, shape [N]. Samples of one budget come up again for others, two of three of them."""
        keys = _keys(tokens_ND)
        accuracy_N = np.array([self._accuracies.get(key) for key in keys], dtype=np.float64)  # NaN for None
        new = np.flatnonzero(np.isnan(accuracy_N))
        if len(new):
            accuracy_N[new] = run_evaluator(self._evaluator, self._features(tokens_ND[new]))
            for i in new.tolist():
                self._accuracies.put(keys[i], float(accuracy_N[i]))
        return accuracy_N

    def _limited(self, values: "_Values", name: str) -> Floats:
        """The amount that a limit is compared with, in the limit's unit, shape [N]."""
        if name == "macs_m":
            return values.macs / 1e6
        if name == "params_m":
            return values.params / 1e6
        if name == "size_mb":
            return values.params * self._bytes / 1e6
        assert name == "peak_memory_mb"
        return values.peak_activations * self._bytes / 1e6

    def _check_known(self, limits: Limits) -> None:
        known = {
            "macs_m": self._costs.macs,
            "params_m": self._costs.params,
            "size_mb": self._costs.params,
            "peak_memory_mb": self._costs.peak_activations,
        }
        for name, _ in limits.items():
            if known[name] is None:
                raise BudgetError(
                    f"limits.{name} cannot be kept: {self.bundle.name} knows no such size of its networks; it knows "
                    f"{[k for k, v in known.items() if v is not None] or 'none'}"
                )

    def _cost_limits(self, limits: Limits) -> tuple[float, float]:
        """The limits that the slack mask can hold: MACs and parameters."""
        none = float(NO_LIMIT)  # compared as Python floats: 1e300 would overflow as float32
        macs = none if limits.macs_m is None else limits.macs_m * 1e6
        params = none if limits.params_m is None else limits.params_m * 1e6
        size = none if limits.size_mb is None else limits.size_mb * 1e6 / self._bytes
        return min(macs, none), min(params, size, none)

    def _candidates(self, tokens_ND: Tokens, values: "_Values", coverage: float | None) -> list[Candidate]:
        return [self._candidate(tokens_D, values.of(i), coverage) for i, tokens_D in enumerate(tokens_ND)]

    def _candidate(self, tokens_D: Tokens, known: Sequence[float], coverage: float | None) -> Candidate:
        """With its prediction.

        Args:
            known: its accuracy, latency_ms, macs, params and peak_activations.
        """
        accuracy, latency_ms, macs, *sizes = known
        coverage = self.bundle.latency_table.default_coverage if coverage is None else coverage
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
                latency_upper_ms=latency_ms * self.bundle.latency_table.bound_factor(coverage),
                latency_coverage=coverage,
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

    def _coverage(self, query: Query) -> float:
        return self.bundle.latency_table.default_coverage if query.coverage is None else query.coverage

    def _factor(self, coverage: float | None) -> float:
        table = self.bundle.latency_table
        return table.bound_factor(table.default_coverage if coverage is None else coverage)

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


def run_evaluator(session: onnxruntime.InferenceSession, features_NF: Floats) -> Floats:
    """Accuracy of each architecture as a fraction, shape [N].

    Rounded to 9 decimals: the last bits depend on how many architectures are asked at once, and answers must not.
    """
    parts = [
        session.run(None, {"features": features_NF[start : start + EVALUATED_AT_ONCE]})[0]
        for start in range(0, max(len(features_NF), 1), EVALUATED_AT_ONCE)
    ]
    accuracy_N: Floats = np.round(np.concatenate(parts), 9)
    return accuracy_N


class _Values:
    """What is known of N architectures: accuracy, latency_ms, macs, params, peak_activations; each of shape [N]."""

    def __init__(self, table_5N: Floats) -> None:
        self._table_5N = table_5N
        columns: Iterator[Floats] = iter(table_5N)
        self.accuracy, self.latency_ms, self.macs, self.params, self.peak_activations = columns

    def take(self, indices: NDArray[np.int64]) -> "_Values":
        return _Values(self._table_5N[:, indices])

    def of(self, index: int) -> list[float]:
        """All five of one architecture."""
        row: list[float] = self._table_5N[:, index].tolist()
        return row


def _best_first(values: "_Values") -> NDArray[np.int64]:
    """Indices by falling accuracy, the faster of two equals first."""
    return np.lexsort((values.latency_ms, -values.accuracy))


def _keys(tokens_ND: Tokens) -> list[bytes]:
    """What tells each row from others."""
    rows = np.ascontiguousarray(tokens_ND, dtype=np.int16)
    data, width = rows.tobytes(), rows.shape[1] * rows.itemsize
    return [data[start : start + width] for start in range(0, len(data), width)]


def _session(bundle: Bundle, name: str, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads  # two threads are slower at these sizes
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(bundle.contents[name], options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # onnxruntime raises its own unrelated classes
        raise BundleError(f"{bundle.name}/{name}: ONNX Runtime cannot load it ({exc})") from exc


def _accuracy_interval(accuracy: float, half_width: float) -> tuple[float, float]:
    """The evaluator's error is even in log(1 - accuracy): the interval is wider where accuracy is low."""
    gap = 1.0 - accuracy
    return max(0.0, 1.0 - gap * math.exp(half_width)), 1.0 - gap * math.exp(-half_width)


def _known(amount: float) -> int | None:
    return None if math.isnan(amount) else int(amount)


def _check_positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value <= 0:
        raise BudgetError(f"{name} is {value!r}; it must be a number above 0")
    if math.isinf(value):
        raise BudgetError(f"{name} is infinite; it must be a finite number above 0")
