"""Learn a device from whole networks alone: rows of (architecture, latency_ms), from 20 up.

Four candidates, from plain to rich, and the one with the least held-out error is kept:

    one-hot    a constant per option of each decision (what everybody tries first; needs many rows)
    physical   non-negative factors on sums over layers: MACs, activations, parameters, operators (needs few)
    additive   physical, times 1 + tables over each layer's decisions and the resolution
    kernel     additive, plus what does not add up, by similarity to the learned networks

All but `physical` are Gaussian processes on measured / physical - 1, whose kernel is a weighted sum of fixed ones:
linear kernels give the tables, radial ones the correction. Devices have many outliers on the slow side, which count
less (gaussian_process.py).

The bound takes each row's ratio measured / predicted from a fit that never saw the row (K-fold), so all rows bound and
all rows teach.

Axis letters: N = rows, M = the rows learned from, G = kernels, X = one-hot columns.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pnag.models.cost import learned_latency
from pnag.models.cost.additive import macs_cost
from pnag.models.cost.latency_table import Device, LatencyTable, UpperBound
from pnag.models.cost.learned_latency import Correction, Kernel, LearnedLatency, Term
from pnag.models.errors import RecordsError
from pnag.models.space.search_space import INACTIVE, SearchSpace, Tokens
from pnag.trainer.data.records import Records, read_records
from pnag.trainer.latency.check import accuracy_figures
from pnag.trainer.latency.learned.gaussian_process import REWEIGHTINGS, fit_gaussian_process, robust_weights
from pnag.trainer.latency.networks import spread_pool
from pnag.trainer.progress import Progress

Floats = NDArray[np.float64]

MIN_ROWS = 20
MAX_LEARNT = 2000
"""Rows that the correction remembers; more are thinned out for it, the rest of the model uses all."""
FOLDS = 10
LEAVE_ONE_OUT_UP_TO = 40
MIN_SPREAD = 1.02
SHAPE_LENGTHS, TOKEN_LENGTHS = (0.5, 1.5), (0.35, 0.9)
RICHER_MUST_GAIN = 0.01
"""A richer candidate is taken only if its held-out error is lower by this share."""
SURROGATE_POOL = 3000
FLOOR_SHARE = 0.5

CANDIDATES = ("physical", "one-hot", "additive", "kernel")
"""From the fewest assumptions to the richest model; ties go to the earlier."""


@dataclass(frozen=True)
class Learning:
    """A learned device with what is known of its quality.

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
    rows = _TrainingRows(space, tokens_ND, latency_ms_N)
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


def learn_table(
    path: Path, space: SearchSpace, base: LatencyTable | None, device_name: str | None, coverage: float, seed: int,
    progress: Progress,
) -> tuple[LatencyTable, Learning]:  # fmt: skip
    """A table that predicts as the rows of a file teach; `base`'s layers and device stay, where there is one.

    Raises:
        BudgetError: if there are too few rows for `coverage`.
        RecordsError: if the rows cannot be read, or teach nothing.
    """
    if base is not None:
        base.check_space(space)
    rows = read_rows(path, space)
    UpperBound(coverage, (1.0,) * len(rows)).factor(coverage)  # too few rows: say so before learning
    with progress.stage("folds", num_steps(len(rows))) as stage:
        learning = learn(space, rows.tokens_ND, rows.require_latency(), seed=seed, progress=stage.step)
    table = to_table(space, device_name or path.stem, learning, coverage, path.name)
    if base is not None:
        table = replace(
            base, learned=table.learned, upper_bound=table.upper_bound, calibration=None, check=None, networks=(),
            source=path.name,
        )  # fmt: skip
    return table, learning


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
    """The number of times that `learn` reports progress."""
    return (count if count <= LEAVE_ONE_OUT_UP_TO else FOLDS) + 1


def to_table(space: SearchSpace, device_name: str, learning: Learning, coverage: float, source: str) -> LatencyTable:
    """A latency table without layers that predicts with the learned model and carries its bound.

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
            "from the cheapest to the costliest"
        )
    macs_N = macs_cost(space)(tokens_ND)
    if macs_N.min() > 0 and macs_N.max() <= macs_N.min() * MIN_SPREAD:
        raise RecordsError(
            f"the rows' networks all have between {macs_N.min() / 1e6:.1f} and {macs_N.max() / 1e6:.1f} M MACs; "
            "measure networks spread over cost, from the cheapest to the costliest"
        )


class _TrainingRows:
    """The rows with every feature of theirs, computed once for all folds."""

    def __init__(self, space: SearchSpace, tokens_ND: Tokens, latency_ms_N: Floats) -> None:
        self.space = space
        self.tokens_ND = tokens_ND
        self.latency_ms_N = latency_ms_N
        self.features = learned_latency.Features(space)
        self.physical_NP = self.features.physical(tokens_ND)
        self.shape_NS = self.features.shape(tokens_ND)
        self.terms = [_OneHot(space, tokens_ND, names, times) for names, times in learned_latency.joint_terms(space)]


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


def _fit(rows: _TrainingRows, chosen: NDArray[np.int64], name: str, seed: int) -> LearnedLatency:
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
            "shape": learned_latency.shape_distance(shape_MS, shape_MS),
            "tokens": learned_latency.token_distance(rows.tokens_ND[chosen], rows.tokens_ND[chosen]),
        }
        grams += [np.exp(distances[k.features] / (-2 * k.length**2)) for k in kernels]
    weights_G, dual_M = fit_gaussian_process(grams, measured / physical - 1, seed)
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
        weight_N = robust_weights(np.log(np.maximum(relative @ solution, 1e-6)))
    names = ["constant", *learned_latency.PHYSICAL]
    return {name: float(c) for name, c in zip(names, solution / size, strict=True) if c > 0}


def _surrogate(
    space: SearchSpace, model: LearnedLatency, rows: _TrainingRows, rng: np.random.Generator
) -> tuple[Term, ...]:
    """The additive tables closest to the whole model over networks of every cost: ridge regression, relative errors."""
    from sklearn.linear_model import Ridge

    additive = replace(model, correction=None)
    pool_ND = np.concatenate([spread_pool(space, additive.cost(space), SURROGATE_POOL, rng), rows.tokens_ND])
    whole_N = model.predictor(space)(pool_ND)
    left_N = (whole_N - additive.cost(space)(pool_ND)) / whole_N
    hot = [_OneHot(space, pool_ND, names, times) for names, times in learned_latency.joint_terms(space)]
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
