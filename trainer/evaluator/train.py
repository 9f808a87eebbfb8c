"""Fit the accuracy model on records, and say how good it is on records it never saw.

A Gaussian process up to `gp_max_records` (gpytorch, exact), an ensemble of MLPs above (scikit-learn). The interval is
split-conformal on -log(1 - accuracy): half of the held-out records set its width, the other half tests it.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from pnag.models.accuracy.evaluator import AccuracyModel, MlpEnsemble, to_log_error
from pnag.models.accuracy.features import ArchitectureFeatures
from pnag.models.errors import TrainingError
from pnag.models.space.search_space import SearchSpace, Tokens
from pnag.trainer.config import EvaluatorConfig
from pnag.trainer.data.records import Records
from pnag.trainer.evaluator.gaussian_process import Extend, fit_gaussian_process, standardise
from pnag.trainer.progress import Progress

Floats = NDArray[np.float64]
_BATCH = 200
"""Records per step of an MLP."""


@dataclass(frozen=True)
class FittedEvaluator:
    """An accuracy model with what is known about its errors.

    Attributes:
        interval_half_width: of the accuracy interval, in y; infinite when too few records were held out.
        metrics: held-out figures for the manifest, accuracies in percent.
    """

    model: AccuracyModel
    features: ArchitectureFeatures
    interval_coverage: float
    interval_half_width: float
    metrics: dict[str, Any]

    def accuracy(self, tokens_ND: Tokens) -> Floats:
        """Predicted top-1 as a fraction, shape [N]."""
        return self.model(self.features(tokens_ND))


def train_evaluator(
    space: SearchSpace,
    records: Records,
    config: EvaluatorConfig,
    seed: int,
    progress: Progress,
    cost_N: Floats | None = None,
) -> FittedEvaluator:
    """Fit on all records but a held-out part, measure there, then let the held-out part in.

    Args:
        cost_N: what the baseline beside the evaluator knows of each record; None = its MACs.

    Raises:
        TrainingError: if there are too few records, or they are all alike.
    """
    accuracy_N = records.require_accuracy()
    if len(records) < config.min_records:
        raise TrainingError(
            f"{records.source}: {len(records)} records; an evaluator needs at least {config.min_records}. "
            "Measure more architectures"
        )
    if np.ptp(accuracy_N) == 0:
        raise TrainingError(f"{records.source}: every accuracy is {accuracy_N[0]:g}; there is nothing to learn")
    features = ArchitectureFeatures(space)
    features_NF, y_N = features(records.tokens_ND), to_log_error(accuracy_N)
    order = np.random.default_rng(seed).permutation(len(records))
    num_held_out = max(2, round(config.held_out_fraction * len(records)))
    held_out, fitted_on = order[:num_held_out], order[num_held_out:]
    is_gaussian = len(records) <= config.gp_max_records
    x_MF, accuracy_M = features_NF[fitted_on], accuracy_N[fitted_on]
    model: AccuracyModel
    if is_gaussian:
        model, extend = fit_gaussian_process(x_MF, accuracy_M, config, seed, progress, features.coupled)
    else:
        model, extend = _fit_mlp_ensemble(x_MF, accuracy_M, config, seed, progress)
    predicted = model(features_NF[held_out])
    half = num_held_out // 2
    residual_y = np.abs(to_log_error(predicted) - y_N[held_out])
    half_width = _conformal_quantile(residual_y[:half], config.interval_coverage)
    truth = accuracy_N[held_out]
    baseline = "macs" if cost_N is None else "cost"
    size_N = features_NF[:, -2] if cost_N is None else np.log(cost_N)  # the logarithm keeps the order
    size_mae = _size_only_mae(size_N[fitted_on], accuracy_N[fitted_on], size_N[held_out], truth)
    metrics = {
        "num_records": len(records),
        "num_held_out": num_held_out,
        "model": "gaussian-process" if is_gaussian else "mlp-ensemble",
        "kendall_tau": float(kendalltau(predicted, truth).statistic),
        "mae_percent": float(np.mean(np.abs(predicted - truth))) * 100,
        f"{baseline}_only_kendall_tau": float(kendalltau(size_N[held_out], truth).statistic),
        f"{baseline}_only_mae_percent": size_mae * 100,
        "interval_coverage_asked": config.interval_coverage,
        "interval_coverage_seen": float(np.mean(residual_y[half:] <= half_width)),
    }
    return FittedEvaluator(
        extend(features_NF, accuracy_N), features, config.interval_coverage, half_width, _finite(metrics)
    )


def _conformal_quantile(residuals: Floats, coverage: float) -> float:
    """The ceil((n + 1) coverage)-th smallest residual; infinite when n is too small to promise it."""
    rank = math.ceil((len(residuals) + 1) * coverage)
    return float(np.sort(residuals)[rank - 1]) if rank <= len(residuals) else math.inf


def _size_only_mae(log_size: Floats, accuracy: Floats, log_size_new: Floats, accuracy_new: Floats) -> float:
    """Error of the baseline that knows nothing but the network's size: y linear in its logarithm."""
    slope, intercept = np.polyfit(log_size, to_log_error(accuracy), 1)
    return float(np.mean(np.abs(-np.expm1(-(slope * log_size_new + intercept)) - accuracy_new)))


def _finite(metrics: dict[str, Any]) -> dict[str, Any]:
    """NaN (a rank correlation of constants) has no place in JSON."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in metrics.items()}


def _fit_mlp_ensemble(
    features_MF: Floats, accuracy_M: Floats, config: EvaluatorConfig, seed: int, progress: Progress
) -> tuple[AccuracyModel, Extend]:
    """scikit-learn's MLPs from different starts; letting more records in means fitting again."""
    from sklearn.neural_network import MLPRegressor
    from threadpoolctl import threadpool_limits

    def fit(features: Floats, accuracy: Floats) -> MlpEnsemble:
        targets = to_log_error(accuracy)
        shift_F, spread_F = standardise(features)
        mean, scale = float(targets.mean()), float(targets.std()) or 1.0
        x, y = (features - shift_F) / spread_F, (targets - mean) / scale
        networks = []
        # At these sizes a second BLAS thread only spins: 269 s of processor instead of 60 for 26 000 records.
        with threadpool_limits(1), progress.stage("evaluator", config.mlp_members) as bar:
            for member in range(config.mlp_members):
                network = MLPRegressor(
                    hidden_layer_sizes=config.mlp_hidden,
                    batch_size=min(_BATCH, len(x)),
                    # scikit-learn divides alpha by the batch, not by the records: times those, the decay would grow
                    # with the data, and 20 000 records would rank worse than 3000.
                    alpha=config.mlp_weight_decay * min(_BATCH, len(x)),
                    early_stopping=True,
                    n_iter_no_change=15,
                    max_iter=300,
                    random_state=seed + member,
                ).fit(x, y)
                networks.append(list(zip(network.coefs_, network.intercepts_, strict=True)))
                bar.step()
        return MlpEnsemble(networks, shift_F, spread_F, mean, scale)

    return fit(features_MF, accuracy_M), fit
