"""Fit the accuracy model on records, and say how good it is on records it never saw.

A Gaussian process up to `gp_max_records` (gpytorch, exact), an ensemble of MLPs above (scikit-learn). The interval is
split-conformal on -log(1 - accuracy): half of the held-out records set its width, the other half tests it.

Axis letters beside those of `models/accuracy`: G = groups of features, O = options that differ, C = coordinates.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from pnag.models.accuracy.evaluator import AccuracyModel, GaussianProcess, MeanProcess, MlpEnsemble, to_log_error
from pnag.models.accuracy.evaluator import kernel as covariance_of
from pnag.models.accuracy.features import ArchitectureFeatures, CoupledDecisions
from pnag.models.errors import TrainingError
from pnag.models.space.search_space import SearchSpace, Tokens
from pnag.trainer.config import EvaluatorConfig
from pnag.trainer.data.records import Records
from pnag.trainer.progress import Progress

Floats = NDArray[np.float64]
_BATCH = 200
"""Records per step of an MLP."""
MAX_COORDINATES = 16
"""Of an option's embedding; options of a longer list start at random places instead of equally far apart."""

_Extend = Callable[[Floats, Floats], AccuracyModel]
"""Features and accuracy of more records -> the fitted model with those let in."""


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
        model, extend = _fit_gaussian_processes(x_MF, accuracy_M, config, seed, progress, features.coupled)
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


def _fit_gaussian_processes(
    features_MF: Floats,
    accuracy_M: Floats,
    config: EvaluatorConfig,
    seed: int,
    progress: Progress,
    ties: CoupledDecisions | None,
) -> tuple[AccuracyModel, _Extend]:
    """The mean of one without and one with wirings, where decisions share a list; otherwise just one.

    A wiring finds what one without would never see, and now and then finds what is not there: the mean of the two
    loses less on every kind of table but the wiring's own (docs/decisions/0018).
    """
    from pnag.trainer.evaluator.message_passing import wired_lists

    if ties is None or not wired_lists(ties):
        return fit_gaussian_process(features_MF, accuracy_M, config, seed, progress, ties)

    def fit(features: Floats, accuracy: Floats) -> MeanProcess:
        kinds = (False, True)
        return MeanProcess(
            [fit_gaussian_process(features, accuracy, config, seed, progress, ties, is_wired=k)[0] for k in kinds]
        )

    return fit(features_MF, accuracy_M), fit


def fit_gaussian_process(
    features_MF: Floats, accuracy_M: Floats, config: EvaluatorConfig, seed: int, progress: Progress,
    ties: CoupledDecisions | None = None, *, is_wired: bool = False,
) -> tuple[GaussianProcess, _Extend]:  # fmt: skip
    """Choose the kernel by marginal likelihood; the closure lets any records in.

    Args:
        ties: features of one group share their weights, the kernel has a quadratic part, options have an embedding that
            decisions with the same list share, and the ceiling of y is learned. None = each feature for itself, 1.
        is_wired: the kernel has what decisions with the same list hear of each other (`message_passing.py`).
    """
    import gpytorch
    import linear_operator
    import torch

    from pnag.trainer.evaluator.message_passing import FittedWiring, wired_lists

    shift_F, spread_F = _standardise(features_MF)
    y_M = to_log_error(accuracy_M)
    mean, scale = float(y_M.mean()), float(y_M.std()) or 1.0
    subset = np.random.default_rng(seed).permutation(len(y_M))[: config.gp_hyperparameter_records]
    x = torch.from_numpy((features_MF[subset] - shift_F) / spread_F)
    y = torch.from_numpy((y_M[subset] - mean) / scale)
    accuracy = torch.from_numpy(accuracy_M[subset])
    highest = float(accuracy_M.max())
    num_features = x.shape[1]

    class Kernel(gpytorch.models.ExactGP):  # type: ignore[misc]
        def __init__(self, likelihood: Any) -> None:
            super().__init__(x, y, likelihood)
            self.constant_mean = gpytorch.means.ConstantMean()
            self.rbf = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel(ard_num_dims=num_features))
            self.rbf.base_kernel.lengthscale = math.sqrt(num_features)
            self.raw_linear = torch.nn.Parameter(torch.full((num_features,), -4.0))
            if ties is not None:
                self.groups_F = torch.from_numpy(ties.groups_F)
                num_groups = int(ties.groups_F.max()) + 1
                # The embedding has the lengths.
                self.rbf = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())
                self.rbf.base_kernel.lengthscale = 1.0
                self.rbf.base_kernel.raw_lengthscale.requires_grad_(False)
                self.options_OC = torch.nn.Parameter(_embedding(ties))
                self.weight_G = torch.nn.Parameter(torch.ones(num_groups))
                self.raw_linear = torch.nn.Parameter(torch.full((num_groups,), -2.0))
                self.raw_quadratic = torch.nn.Parameter(torch.full((num_groups,), -3.0))
                lists = wired_lists(ties) if is_wired else []
                self.wirings = torch.nn.ModuleList([FittedWiring(ties, number) for number in lists])
                self.log_gap = torch.nn.Parameter(torch.tensor(0.0))

        def linear_F(self) -> Any:  # noqa: N802
            linear = torch.nn.functional.softplus(self.raw_linear)
            return linear if ties is None else linear[self.groups_F]

        def quadratic_F(self) -> Any:  # noqa: N802
            return torch.nn.functional.softplus(self.raw_quadratic)[self.groups_F]

        def embedding_FP(self) -> Any:  # noqa: N802
            """Each decision's options in coordinates of its own, shape [F, G * C]."""
            assert ties is not None
            option_FC = self.options_OC[ties.options_F] * self.weight_G[self.groups_F][:, None]
            option_FC = option_FC * torch.from_numpy(ties.options_F >= 0)[:, None]
            of_group_FG = torch.nn.functional.one_hot(self.groups_F)
            return (of_group_FG[:, :, None] * option_FC[:, None, :]).flatten(1)

        def targets(self) -> tuple[Any, Any]:
            """Standardised y, and what its logarithmic density gains by the ceiling, per record."""
            if ties is None:
                return y, 0.0
            warped = -torch.log(highest + self.gap() - accuracy)
            scale = warped.std(correction=0)
            return (warped - warped.mean()) / scale, warped.mean() - torch.log(scale)

        def gap(self) -> Any:
            """From the highest accuracy to the ceiling."""
            return accuracy.std() * torch.exp(self.log_gap)

        def forward(self, inputs: Any) -> Any:
            if ties is None:
                covariance = self.rbf(inputs).to_dense() + (inputs * self.linear_F()) @ inputs.T
            else:
                covariance = self.rbf(inputs @ self.embedding_FP()).to_dense()
                covariance = covariance + (inputs * self.linear_F()) @ inputs.T
                covariance = covariance + ((inputs * self.quadratic_F()) @ inputs.T) ** 2
                for wiring in self.wirings:
                    heard = wiring(inputs)
                    covariance = covariance + heard @ heard.T
            # Lazily: a dense matrix would be factorised here, before the noise makes it positive definite.
            lazy = linear_operator.to_linear_operator(covariance)
            return gpytorch.distributions.MultivariateNormal(self.constant_mean(inputs), lazy)

    likelihood = gpytorch.likelihoods.GaussianLikelihood(noise_constraint=gpytorch.constraints.GreaterThan(1e-5))
    likelihood.noise = 0.05
    kernel = Kernel(likelihood).double()
    kernel.train()
    objective = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, kernel)
    optimizer = torch.optim.Adam(kernel.parameters(), lr=config.gp_learning_rate)
    with gpytorch.settings.fast_computations(False, False, False), progress.stage("evaluator", config.gp_steps) as bar:
        for _ in range(config.gp_steps):
            optimizer.zero_grad()
            targets, gain = kernel.targets()
            loss = -objective(kernel(x), targets) - gain
            if ties is not None:
                loss = loss + sum(wiring.penalty() for wiring in kernel.wirings) / len(x)
            loss.backward()
            optimizer.step()
            bar.step(note=f"-log likelihood {loss.item():.3f}")
    ceiling = 1.0
    if ties is not None:
        ceiling = highest + float(kernel.gap().item())
        y_M = to_log_error(accuracy_M, ceiling)
        mean, scale = float(y_M.mean()), float(y_M.std())
    hyperparameters = {
        "shift_F": shift_F,
        "spread_F": spread_F,
        "lengthscale_F": np.broadcast_to(kernel.rbf.base_kernel.lengthscale.detach().numpy()[0], num_features),
        "linear_F": kernel.linear_F().detach().numpy(),
        "outputscale": float(kernel.rbf.outputscale.item()),
        "constant": float(kernel.constant_mean.constant.item()),
        "mean": mean,
        "scale": scale,
        "noise": float(likelihood.noise.item()),
        "quadratic_F": None if ties is None else kernel.quadratic_F().detach().numpy(),
        "embedding_FP": None if ties is None else kernel.embedding_FP().detach().numpy(),
        "message_passings": () if ties is None else tuple(wiring.frozen() for wiring in kernel.wirings),
    }
    noise = hyperparameters["noise"]
    of_kernel = {
        k: hyperparameters[k]
        for k in ("lengthscale_F", "linear_F", "outputscale", "quadratic_F", "embedding_FP", "message_passings")
    }

    def condition(features: Floats, accuracy: Floats) -> GaussianProcess:
        z = (features - shift_F) / spread_F
        covariance = covariance_of(z, z, **of_kernel)
        covariance[np.diag_indices_from(covariance)] += noise
        residual = (to_log_error(accuracy, ceiling) - mean) / scale - hyperparameters["constant"]
        weights_M = np.linalg.solve(covariance, residual)
        return GaussianProcess(inputs_MF=features, weights_M=weights_M, ceiling=ceiling, **hyperparameters)

    def again(features: Floats, accuracy: Floats) -> GaussianProcess:
        return fit_gaussian_process(features, accuracy, config, seed, progress, ties, is_wired=is_wired)[0]

    # A ceiling and an embedding have much to gain from the last fifth of the records (docs/decisions/0017).
    return condition(features_MF, accuracy_M), condition if ties is None else again


def _embedding(ties: CoupledDecisions) -> Any:
    """Where options start: all of a list equally far from each other, shape [O, C]; the nearer, the more decisions."""
    import torch

    is_option_F = ties.options_F >= 0
    num_decisions = len(np.unique(ties.groups_F[is_option_F]))
    place_O = np.zeros(ties.options_F.max(initial=0) + 1, dtype=np.int64)
    place_O[ties.options_F[is_option_F]] = ties.places_F[is_option_F]
    apart_O = torch.nn.functional.one_hot(torch.from_numpy(place_O)).double()
    if apart_O.shape[1] > MAX_COORDINATES:
        apart_O = torch.randn(len(place_O), MAX_COORDINATES).double() / math.sqrt(MAX_COORDINATES)
    return apart_O * math.sqrt(0.8 / num_decisions)


def _fit_mlp_ensemble(
    features_MF: Floats, accuracy_M: Floats, config: EvaluatorConfig, seed: int, progress: Progress
) -> tuple[AccuracyModel, _Extend]:
    """scikit-learn's MLPs from different starts; letting more records in means fitting again."""
    from sklearn.neural_network import MLPRegressor
    from threadpoolctl import threadpool_limits

    def fit(features: Floats, accuracy: Floats) -> MlpEnsemble:
        targets = to_log_error(accuracy)
        shift_F, spread_F = _standardise(features)
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


def _standardise(features_MF: Floats) -> tuple[Floats, Floats]:
    """Shift and spread per feature: 0/1 columns stay, the others get mean 0 and deviation 1."""
    binary_F = np.all((features_MF == 0) | (features_MF == 1), axis=0)
    spread_F = features_MF.std(axis=0)
    constant_F = binary_F | (spread_F < 1e-12)
    return np.where(binary_F, 0.0, features_MF.mean(axis=0)), np.where(constant_F, 1.0, spread_F)
