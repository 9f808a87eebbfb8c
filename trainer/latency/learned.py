"""Learn a device from whole networks alone: rows of (architecture, latency_ms), from 20 up.

Four candidates, from plain to rich, and the one with the least held-out error is kept:

    one-hot    a constant per option of each decision (what everybody tries first; needs many rows)
    physical   non-negative factors on sums over layers: MACs, activations, parameters, operators (needs few)
    additive   physical, times 1 + tables over each layer's decisions and the resolution
    kernel     additive, plus what does not add up, by similarity to the learnt networks

All but `physical` are Gaussian processes on measured / physical - 1, whose kernel is a weighted sum of fixed ones:
linear kernels give the tables, radial ones the correction. The weights maximise the marginal likelihood on a part of
the rows. Outliers, of which devices have many on the slow side, count less each round (Student-t noise by reweighting).

The bound takes each row's ratio measured / predicted from a fit that never saw the row (K-fold), so all rows bound and
all rows teach.

Axis letters: N = rows, M = the rows learnt from, G = kernels, X = one-hot columns.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pnag.models.cost import learned_latency as learnt
from pnag.models.cost.additive import macs_cost
from pnag.models.cost.latency_table import Device, LatencyTable, UpperBound
from pnag.models.cost.learned_latency import Correction, Kernel, LearnedLatency, Term
from pnag.models.errors import RecordsError
from pnag.models.space.search_space import INACTIVE, SearchSpace, Tokens
from pnag.trainer.data.records import Records, read_records
from pnag.trainer.latency.fit import accuracy_figures
from pnag.trainer.latency.networks import spread_pool

logger = logging.getLogger(__name__)

Floats = NDArray[np.float64]

MIN_ROWS = 20
MAX_LEARNT = 2000
"""Rows that the correction remembers; more are thinned out for it, the rest of the model uses all."""
MAX_TUNING = 350
"""Rows that the kernels' weights are tuned on: what they cost grows with the cube."""
FOLDS = 10
LEAVE_ONE_OUT_UP_TO = 40
MIN_SPREAD = 1.02
SHAPE_LENGTHS, TOKEN_LENGTHS = (0.5, 1.5), (0.35, 0.9)
DEGREES_OF_FREEDOM = 4.0
REWEIGHTINGS = 3
RICHER_MUST_GAIN = 0.01
"""A richer candidate is taken only if its held-out error is lower by this share."""
SURROGATE_POOL = 3000
FLOOR_SHARE = 0.5

CANDIDATES = ("physical", "one-hot", "additive", "kernel")
"""From the fewest assumptions to the richest model; ties go to the earlier."""


@dataclass(frozen=True)
class Learning:
    """A learnt device with what is known of its quality.

    Attributes:
        model: ready for a latency table.
        ratios: measured / predicted of every row by a fit without it, rising.
        figures: held-out figures of the chosen candidate.
    """

    model: LearnedLatency
    ratios: tuple[float, ...]
    figures: dict[str, Any]


def learn(
    space: SearchSpace,
    tokens_ND: Tokens,
    latency_ms_N: Floats,
    *,
    seed: int = 0,
    candidates: Sequence[str] = CANDIDATES,
    progress: Callable[[], None] = lambda: None,
) -> Learning:
    """Learn from rows; `progress` is called after each of `num_steps(N)` fits.

    Raises:
        RecordsError: if there are fewer than 20 rows, or they hardly differ in cost.
    """
    from threadpoolctl import threadpool_limits

    # BLAS threads that wait for each other on a busy machine made this 20 times slower; alone they gain little here.
    with threadpool_limits(limits=1):
        return _learn(space, tokens_ND, latency_ms_N, seed, candidates, progress)


def _learn(
    space: SearchSpace,
    tokens_ND: Tokens,
    latency_ms_N: Floats,
    seed: int,
    candidates: Sequence[str],
    progress: Callable[[], None],
) -> Learning:
    count = len(tokens_ND)
    if count < MIN_ROWS:
        raise RecordsError(
            f"{count} rows cannot teach a device; measure at least {MIN_ROWS} networks, spread over cost"
        )
    _check_spread(space, tokens_ND, latency_ms_N)
    rows = _Rows(space, tokens_ND, latency_ms_N)
    rng = np.random.default_rng(seed)
    fold_N = rng.permutation(count) % (count if count <= LEAVE_ONE_OUT_UP_TO else FOLDS)
    held_out: dict[str, Floats] = {name: np.empty(count) for name in candidates}
    for fold in range(fold_N.max() + 1):
        inside, outside = np.flatnonzero(fold_N != fold), np.flatnonzero(fold_N == fold)
        for name in candidates:
            model = _fit(rows, inside, name, seed)
            held_out[name][outside] = model.predictor(space, rows.features)(tokens_ND[outside])
        progress()
    figures = {name: accuracy_figures(held_out[name], latency_ms_N) for name in candidates}
    chosen = candidates[0]
    for name in candidates[1:]:
        if figures[name]["mape_percent"] < figures[chosen]["mape_percent"] * (1 - RICHER_MUST_GAIN):
            chosen = name
    model = _fit(rows, np.arange(count), chosen, seed)
    if model.correction is not None:
        model = replace(model, surrogate=_surrogate(space, model, rows, rng))
    progress()
    ratios = sorted(round(float(r), 6) for r in latency_ms_N / held_out[chosen])
    return Learning(replace(model, candidates=figures), tuple(ratios), figures[chosen])


def read_rows(path: Path, space: SearchSpace) -> Records:
    """Rows to learn from: `architecture,latency_ms`, all of one device.

    Raises:
        RecordsError: naming row and column of what is wrong, or the devices if there are several.
    """
    records = read_records(path, space)
    records.require_latency()
    if path.suffix == ".csv":
        import pandas as pd

        header = pd.read_csv(path, nrows=0, skipinitialspace=True).columns
        if "device" in header:
            devices = sorted({str(d) for d in pd.read_csv(path, usecols=["device"], skipinitialspace=True)["device"]})
            if len(devices) > 1:
                raise RecordsError(
                    f"{path.name}: mixes {len(devices)} devices ({', '.join(devices[:5])}); "
                    "learn each from its own file"
                )
    return records


def num_steps(count: int) -> int:
    """How often `learn` reports progress."""
    return (count if count <= LEAVE_ONE_OUT_UP_TO else FOLDS) + 1


def to_table(space: SearchSpace, device_name: str, learning: Learning, coverage: float, source: str) -> LatencyTable:
    """A latency table without layers that predicts with the learnt model and carries its bound.

    Raises:
        BudgetError: if there are too few rows for `coverage`.
    """
    upper_bound = UpperBound(coverage, learning.ratios)
    upper_bound.factor(coverage)
    return LatencyTable(
        space.name,
        Device(device_name),
        statistic="whole_networks",
        layers={},
        upper_bound=upper_bound,
        learned=learning.model,
        source=source,
    )


def _check_spread(space: SearchSpace, tokens_ND: Tokens, latency_ms_N: Floats) -> None:
    low, high = float(latency_ms_N.min()), float(latency_ms_N.max())
    if high <= low * MIN_SPREAD:
        raise RecordsError(
            f"the rows' latencies all lie between {low:g} and {high:g} ms; measure networks spread over cost, "
            "from the cheapest to the dearest"
        )
    macs_N = macs_cost(space)(tokens_ND)
    if macs_N.min() > 0 and macs_N.max() <= macs_N.min() * MIN_SPREAD:
        raise RecordsError(
            f"the rows' networks all have between {macs_N.min() / 1e6:.1f} and {macs_N.max() / 1e6:.1f} M MACs; "
            "measure networks spread over cost, from the cheapest to the dearest"
        )


class _Rows:
    """The rows with every feature of theirs, computed once for all folds."""

    def __init__(self, space: SearchSpace, tokens_ND: Tokens, latency_ms_N: Floats) -> None:
        self.space = space
        self.tokens_ND = tokens_ND
        self.latency_ms_N = latency_ms_N
        self.features = learnt.Features(space)
        self.physical_NP = self.features.physical(tokens_ND)
        self.shape_NS = self.features.shape(tokens_ND)
        self.terms = [_OneHot(space, tokens_ND, names, times) for names, times in learnt.joint_terms(space)]


class _OneHot:
    """Columns of one table: which place of it each row looks up, times the shared number squared."""

    def __init__(self, space: SearchSpace, tokens_ND: Tokens, names: tuple[str, ...], times: str | None) -> None:
        self.names, self.times = names, times
        self.shape = tuple(len(space.decisions[space.index(n)].options) + 1 for n in names)
        places = tuple(tokens_ND[:, space.index(n)] for n in names)
        # Inactive (-1) looks up the last place, as numpy's indexing does.
        self.place_N = np.ravel_multi_index(
            tuple(p % size for p, size in zip(places, self.shape, strict=True)), self.shape
        )
        self.factor_N = np.ones(len(tokens_ND))
        if times is not None:
            options = np.array([float(o) for o in space.decisions[space.index(times)].options])
            self.factor_N = (options[tokens_ND[:, space.index(times)]] / options.max()) ** 2

    def columns(self, rows: NDArray[np.int64], scale_N: Floats) -> Floats:
        """Dense columns of the given rows, shape [rows, X]."""
        columns = np.zeros((len(rows), int(np.prod(self.shape))))
        columns[np.arange(len(rows)), self.place_N[rows]] = self.factor_N[rows] * scale_N
        return columns


def _fit(rows: _Rows, chosen: NDArray[np.int64], name: str, seed: int) -> LearnedLatency:
    """One candidate on some of the rows."""
    space = rows.space
    measured = rows.latency_ms_N[chosen]
    options = {d.name: d.options for d in space.decisions}
    if name == "one-hot":
        coefficients = {"constant": float(np.median(measured))}
    else:
        coefficients = _physical_coefficients(rows.physical_NP[chosen], measured)
    bare = LearnedLatency(
        name, len(chosen), {}, options, coefficients, floor_ms=round(FLOOR_SHARE * float(measured.min()), 6)
    )
    if name == "physical":
        return bare
    if name == "kernel" and len(chosen) > MAX_LEARNT:
        chosen = np.random.default_rng(seed).permutation(chosen)[:MAX_LEARNT]
        measured = rows.latency_ms_N[chosen]
    physical = bare.physical_ms(rows.physical_NP[chosen])
    # The linear kernels see columns divided by the physical part, so that their tables add up in ms.
    unit = float(np.median(physical))
    groups = [group for group in _grouped(rows.terms, name) if group]
    blocks = [np.concatenate([t.columns(chosen, unit / physical) for t in group], axis=1) for group in groups]
    blocks[0] = np.concatenate([blocks[0], (unit / physical)[:, np.newaxis]], axis=1)
    grams = [block @ block.T for block in blocks]
    kernels: list[Kernel] = []
    mean_S, scale_S = rows.shape_NS[chosen].mean(axis=0), rows.shape_NS[chosen].std(axis=0)
    scale_S = np.where(scale_S > 1e-9, scale_S, 1.0)
    shape_MS = ((rows.shape_NS[chosen] - mean_S) / scale_S).astype(np.float32).astype(np.float64)
    if name == "kernel":
        kernels = [Kernel("shape", length, 1.0) for length in SHAPE_LENGTHS]
        kernels += [Kernel("tokens", length, 1.0) for length in TOKEN_LENGTHS]
        distances = {
            "shape": learnt.shape_distance(shape_MS, shape_MS),
            "tokens": learnt.token_distance(rows.tokens_ND[chosen], rows.tokens_ND[chosen]),
        }
        grams += [np.exp(distances[k.features] / (-2 * k.length**2)) for k in kernels]
    weights_G, dual_M = _gaussian_process(grams, measured / physical - 1, seed)
    tables = [w * unit * (dual_M @ block) for w, block in zip(weights_G, blocks, strict=False)]
    terms = []
    for group, flat in zip(groups, tables, strict=True):
        for one_hot in group:
            size = int(np.prod(one_hot.shape))
            terms.append(Term(one_hot.names, _rounded(flat[:size].reshape(one_hot.shape)), one_hot.times))
            flat = flat[size:]
    correction = None
    if kernels:
        tuned = [replace(k, weight=float(w)) for k, w in zip(kernels, weights_G[len(blocks) :], strict=True)]
        correction = Correction(
            tuple(tuned), mean_S, scale_S, shape_MS, rows.tokens_ND[chosen].astype(np.int16), dual_M
        )
    return replace(bare, terms=tuple(terms), correction=correction, intercept_ms=float(tables[0][-1]))


def _grouped(terms: Sequence[_OneHot], name: str) -> list[list[_OneHot]]:
    """The tables by how much they may vary: single decisions, joint ones, and those that scale with a shared number."""
    singles = [t for t in terms if len(t.names) == 1 and t.times is None]
    if name == "one-hot":
        return [singles]
    return [singles, [t for t in terms if len(t.names) > 1 and t.times is None], [t for t in terms if t.times]]


def _physical_coefficients(sums_NP: Floats, measured_N: Floats) -> dict[str, float]:
    """Non-negative factors on the physical sums and a constant, by reweighted least squares of relative errors."""
    from scipy.optimize import nnls

    columns = np.concatenate([np.ones((len(sums_NP), 1)), sums_NP], axis=1)
    size = np.maximum(columns.mean(axis=0), 1e-12)
    relative = columns / size / measured_N[:, np.newaxis]
    weight_N = np.ones(len(measured_N))
    solution = np.zeros(columns.shape[1])
    for _ in range(REWEIGHTINGS + 1):
        root_N = np.sqrt(weight_N)
        solution = nnls(relative * root_N[:, np.newaxis], root_N)[0]
        weight_N = _robust_weights(np.log(np.maximum(relative @ solution, 1e-6)))
    names = ["constant", *learnt.PHYSICAL]
    return {name: float(c) for name, c in zip(names, solution / size, strict=True) if c > 0}


def _robust_weights(residual_N: Floats) -> Floats:
    """Weights of a Student-t likelihood, its scale by the median absolute deviation."""
    scale = 1.4826 * float(np.median(np.abs(residual_N - np.median(residual_N))))
    if scale == 0:
        return np.ones(len(residual_N))
    weight_N: Floats = (DEGREES_OF_FREEDOM + 1) / (DEGREES_OF_FREEDOM + (residual_N / scale) ** 2)
    return weight_N


def _gaussian_process(grams: Sequence[Floats], target_N: Floats, seed: int) -> tuple[Floats, Floats]:
    """Weights of the kernels, shape [G], and the dual weights of the rows, shape [N]."""
    count = len(target_N)
    subset = np.random.default_rng(seed).permutation(count)[:MAX_TUNING]
    weight_N = _robust_weights(target_N)
    weights_G, noise = np.ones(len(grams)), 1.0
    dual_N = np.zeros(count)
    for round_ in range(REWEIGHTINGS):
        if round_ < 2:  # the outliers are known after one round; tuning again would change little
            weights_G, noise = _tune([g[np.ix_(subset, subset)] for g in grams], target_N[subset], weight_N[subset])
        kernel_NN = sum((w * g for w, g in zip(weights_G, grams, strict=True)), np.zeros((count, count)))
        dual_N = _solve_positive(kernel_NN + np.diag(noise / weight_N), target_N)
        weight_N = _robust_weights(target_N - kernel_NN @ dual_N)
    return weights_G, dual_N


def _tune(grams: Sequence[Floats], target_N: Floats, weight_N: Floats) -> tuple[Floats, float]:
    """Kernel weights and noise variance of the greatest marginal likelihood; a broad log-normal prior on weights."""
    from scipy.linalg import cho_factor, cho_solve
    from scipy.optimize import minimize

    count, kernels = len(target_N), len(grams)
    variance = float(np.mean(weight_N * target_N**2) / np.mean(weight_N)) + 1e-12
    size_G = np.array([np.mean(np.diag(g)) for g in grams])
    scaled = [g / size for g, size in zip(grams, size_G, strict=True)]
    prior_mean, prior_variance = np.log(0.05 * variance), 16.0
    noise_diag = 1 / weight_N

    def objective(log_weights: Floats) -> tuple[float, Floats]:
        weights_G, noise = np.exp(log_weights[:kernels]), float(np.exp(log_weights[kernels]))
        matrix = sum((w * g for w, g in zip(weights_G, scaled, strict=True)), np.zeros((count, count)))
        matrix[np.diag_indices(count)] += noise * noise_diag + 1e-9 * variance
        factor = cho_factor(matrix, lower=True)
        inverse = cho_solve(factor, np.eye(count))
        dual_N = inverse @ target_N
        value = 0.5 * float(target_N @ dual_N) + float(np.log(np.diag(factor[0])).sum())
        slope = inverse - np.outer(dual_N, dual_N)
        gradient = np.array(
            [*(0.5 * w * float(np.sum(slope * g)) for w, g in zip(weights_G, scaled, strict=True)),
             0.5 * noise * float(np.diag(slope) @ noise_diag)]
        )  # fmt: skip
        distance_G = log_weights[:kernels] - prior_mean
        gradient[:kernels] += distance_G / prior_variance
        return value + 0.5 * float(np.sum(distance_G**2)) / prior_variance, gradient

    start = np.append(np.full(kernels, np.log(0.1 * variance)), np.log(0.3 * variance))
    low, high = np.log(1e-6 * variance), np.log(1e3 * variance)
    bounds = [(low, high)] * kernels + [(np.log(1e-3 * variance), np.log(10 * variance))]
    best = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 40}).x
    return np.exp(best[:kernels]) / size_G, float(np.exp(best[kernels]))


def _solve_positive(matrix: Floats, target_N: Floats) -> Floats:
    from scipy.linalg import cho_factor, cho_solve

    solution: Floats = cho_solve(cho_factor(matrix, lower=True), target_N)
    return solution


def _surrogate(space: SearchSpace, model: LearnedLatency, rows: _Rows, rng: np.random.Generator) -> tuple[Term, ...]:
    """The additive tables closest to the whole model over networks of every cost: ridge regression, relative errors."""
    from sklearn.linear_model import Ridge

    additive = replace(model, correction=None)
    pool_ND = np.concatenate([spread_pool(space, additive.cost(space), SURROGATE_POOL, rng), rows.tokens_ND])
    whole_N = model.predictor(space)(pool_ND)
    left_N = (whole_N - additive.cost(space)(pool_ND)) / whole_N
    hot = [_OneHot(space, pool_ND, names, times) for names, times in learnt.joint_terms(space)]
    columns = np.concatenate([t.columns(np.arange(len(pool_ND)), 1 / whole_N) for t in hot], axis=1)
    size = float(np.median(whole_N))
    ridge = Ridge(alpha=1e-3, fit_intercept=False).fit(columns * size, left_N)
    gain = iter(ridge.coef_ * size)
    by_place = {(t.decisions, t.times): t for t in model.terms}
    tables = []
    for one_hot in hot:
        table = np.array([next(gain) for _ in range(int(np.prod(one_hot.shape)))]).reshape(one_hot.shape)
        before = by_place.get((one_hot.names, one_hot.times))
        tables.append(Term(one_hot.names, _rounded(table if before is None else table + before.values), one_hot.times))
    return tuple(tables)


def _rounded(table: Floats) -> Floats:
    """Seven digits: more would only make the file longer."""
    with np.errstate(divide="ignore"):
        digits = np.where(table == 0, 0, np.floor(np.log10(np.abs(table) + 1e-300)))
    step = 10.0 ** (digits - 6)
    return np.where(np.abs(table) < 1e-12, 0.0, np.round(table / step) * step)


assert INACTIVE == -1, "_OneHot counts on -1 % size being the last place"
