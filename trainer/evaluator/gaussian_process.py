"""Fit a Gaussian process of accuracy: choose its kernel by marginal likelihood, then let records in.

The kernel is a sum: a squared exponential and a linear part, where decisions share options also a quadratic one. One
length per feature and the likelihood that is maximised are those of Rasmussen and Williams, Gaussian Processes for
Machine Learning, 2006, section 5.1, eq. 5.8.

Axis letters beside those of `models/accuracy`: G = groups of features, O = options that differ, C = coordinates.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gpytorch
import linear_operator
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot, softplus

from pnag.models.accuracy.evaluator import AccuracyModel, GaussianProcess, to_log_error
from pnag.models.accuracy.evaluator import kernel as covariance_of
from pnag.models.accuracy.features import CoupledDecisions
from pnag.trainer.config import EvaluatorConfig
from pnag.trainer.progress import Progress

Floats = NDArray[np.float64]

MAX_COORDINATES = 16
"""Of an option's embedding; options of a longer list start at random places instead of equally far apart."""

Extend = Callable[[Floats, Floats], AccuracyModel]
"""Features and accuracy of more records -> the fitted model with those let in."""


@dataclass(frozen=True)
class _Sample:
    """The records that choose the kernel: standardised features and y, accuracy as it is, and the highest of all."""

    x: Tensor
    y: Tensor
    accuracy: Tensor
    highest: float


class _Kernel(gpytorch.models.ExactGP):  # type: ignore[misc]
    """Each feature for itself, y = -log(1 - accuracy)."""

    def __init__(self, sample: _Sample, likelihood: Any) -> None:
        super().__init__(sample.x, sample.y, likelihood)
        self.sample = sample
        num_features = sample.x.shape[1]
        self.constant_mean = gpytorch.means.ConstantMean()
        self.rbf = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel(ard_num_dims=num_features))
        self.rbf.base_kernel.lengthscale = math.sqrt(num_features)
        self.raw_linear = torch.nn.Parameter(torch.full((num_features,), -4.0))

    def linear_F(self) -> Tensor:  # noqa: N802
        return softplus(self.raw_linear)

    def covariance(self, inputs: Tensor) -> Tensor:
        covariance: Tensor = self.rbf(inputs).to_dense() + (inputs * self.linear_F()) @ inputs.T
        return covariance

    def forward(self, inputs: Tensor) -> Any:
        # Lazily: a dense matrix would be factorised here, before the noise makes it positive definite.
        lazy = linear_operator.to_linear_operator(self.covariance(inputs))
        return gpytorch.distributions.MultivariateNormal(self.constant_mean(inputs), lazy)

    def targets(self) -> tuple[Tensor, Tensor | float]:
        """Standardised y, and what its logarithmic density gains by the ceiling, per record."""
        return self.sample.y, 0.0

    def ceiling(self) -> float:
        """The accuracy that y grows towards without end."""
        return 1.0

    def frozen(self) -> dict[str, Any]:
        """The kernel's hyperparameters as numbers, by the names of `pnag.models.accuracy.evaluator.kernel`."""
        lengthscale = self.rbf.base_kernel.lengthscale.detach().numpy()[0]
        return {
            "lengthscale_F": np.broadcast_to(lengthscale, self.sample.x.shape[1]),
            "linear_F": self.linear_F().detach().numpy(),
            "outputscale": float(self.rbf.outputscale.item()),
            "quadratic_F": None,
            "embedding_FP": None,
        }


class _CoupledKernel(_Kernel):
    """Features of one group share their weights, and options an embedding that decisions with the same list share."""

    def __init__(self, sample: _Sample, likelihood: Any, coupled: CoupledDecisions) -> None:
        super().__init__(sample, likelihood)
        self.coupled = coupled
        self.groups_F = torch.from_numpy(coupled.groups_F)
        num_groups = int(coupled.groups_F.max()) + 1
        self.rbf = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())
        self.rbf.base_kernel.lengthscale = 1.0  # the embedding has the lengths
        self.rbf.base_kernel.raw_lengthscale.requires_grad_(False)
        self.options_OC = torch.nn.Parameter(_embedding(coupled))
        self.weight_G = torch.nn.Parameter(torch.ones(num_groups))
        self.raw_linear = torch.nn.Parameter(torch.full((num_groups,), -2.0))
        self.raw_quadratic = torch.nn.Parameter(torch.full((num_groups,), -3.0))
        self.log_gap = torch.nn.Parameter(torch.tensor(0.0))

    def linear_F(self) -> Tensor:  # noqa: N802
        return softplus(self.raw_linear)[self.groups_F]

    def quadratic_F(self) -> Tensor:  # noqa: N802
        return softplus(self.raw_quadratic)[self.groups_F]

    def embedding_FP(self) -> Tensor:  # noqa: N802
        """Each decision's options in coordinates of its own, shape [F, G * C]."""
        option_FC = self.options_OC[self.coupled.options_F] * self.weight_G[self.groups_F][:, None]
        option_FC = option_FC * torch.from_numpy(self.coupled.options_F >= 0)[:, None]
        return (one_hot(self.groups_F)[:, :, None] * option_FC[:, None, :]).flatten(1)

    def covariance(self, inputs: Tensor) -> Tensor:
        covariance: Tensor = self.rbf(inputs @ self.embedding_FP()).to_dense()
        covariance = covariance + (inputs * self.linear_F()) @ inputs.T
        return covariance + ((inputs * self.quadratic_F()) @ inputs.T) ** 2

    def targets(self) -> tuple[Tensor, Tensor | float]:
        warped = -torch.log(self.sample.highest + self._gap() - self.sample.accuracy)
        scale = warped.std(correction=0)
        return (warped - warped.mean()) / scale, warped.mean() - torch.log(scale)

    def ceiling(self) -> float:
        return self.sample.highest + float(self._gap().item())

    def frozen(self) -> dict[str, Any]:
        return super().frozen() | {
            "quadratic_F": self.quadratic_F().detach().numpy(),
            "embedding_FP": self.embedding_FP().detach().numpy(),
        }

    def _gap(self) -> Tensor:
        """From the highest accuracy to the ceiling."""
        return self.sample.accuracy.std() * torch.exp(self.log_gap)


def fit_gaussian_process(
    features_MF: Floats, accuracy_M: Floats, config: EvaluatorConfig, seed: int, progress: Progress,
    coupled: CoupledDecisions | None = None,
) -> tuple[GaussianProcess, Extend]:  # fmt: skip
    """Choose the kernel by marginal likelihood; the closure lets any records in.

    Args:
        coupled: features of one group share their weights, the kernel has a quadratic part, options have an embedding
            that decisions with the same list share, and the ceiling of y is learned. None = each feature for itself, 1.
    """
    shift_F, spread_F = standardise(features_MF)
    y_M = to_log_error(accuracy_M)
    mean, scale = float(y_M.mean()), float(y_M.std()) or 1.0
    chosen = np.random.default_rng(seed).permutation(len(y_M))[: config.gp_hyperparameter_records]
    sample = _Sample(
        torch.from_numpy((features_MF[chosen] - shift_F) / spread_F),
        torch.from_numpy((y_M[chosen] - mean) / scale),
        torch.from_numpy(accuracy_M[chosen]),
        float(accuracy_M.max()),
    )
    likelihood = gpytorch.likelihoods.GaussianLikelihood(noise_constraint=gpytorch.constraints.GreaterThan(1e-5))
    likelihood.noise = 0.05
    kernel = _Kernel(sample, likelihood) if coupled is None else _CoupledKernel(sample, likelihood, coupled)
    kernel = kernel.double()
    _maximise_likelihood(kernel, likelihood, config, progress)
    ceiling = kernel.ceiling()
    if coupled is not None:
        y_M = to_log_error(accuracy_M, ceiling)
        mean, scale = float(y_M.mean()), float(y_M.std())
    of_kernel = kernel.frozen()
    constant, noise = float(kernel.constant_mean.constant.item()), float(likelihood.noise.item())

    def condition(features: Floats, accuracy: Floats) -> GaussianProcess:
        z = (features - shift_F) / spread_F
        covariance = covariance_of(z, z, **of_kernel)
        covariance[np.diag_indices_from(covariance)] += noise
        residual = (to_log_error(accuracy, ceiling) - mean) / scale - constant
        weights_M = np.asarray(np.linalg.solve(covariance, residual), dtype=np.float64)
        return GaussianProcess(
            inputs_MF=features, weights_M=weights_M, shift_F=shift_F, spread_F=spread_F,
            constant=constant, mean=mean, scale=scale, noise=noise, ceiling=ceiling, **of_kernel,
        )  # fmt: skip

    def again(features: Floats, accuracy: Floats) -> GaussianProcess:
        return fit_gaussian_process(features, accuracy, config, seed, progress, coupled)[0]

    # A ceiling and an embedding have much to gain from the last fifth of the records (docs/decisions/0017).
    return condition(features_MF, accuracy_M), condition if coupled is None else again


def _maximise_likelihood(kernel: _Kernel, likelihood: Any, config: EvaluatorConfig, progress: Progress) -> None:
    kernel.train()
    x = kernel.sample.x
    objective = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, kernel)
    optimizer = torch.optim.Adam(kernel.parameters(), lr=config.gp_learning_rate)
    with gpytorch.settings.fast_computations(False, False, False), progress.stage("evaluator", config.gp_steps) as bar:
        for _ in range(config.gp_steps):
            optimizer.zero_grad()
            targets, gain = kernel.targets()
            loss = -objective(kernel(x), targets) - gain
            loss.backward()
            optimizer.step()
            bar.step(note=f"-log likelihood {loss.item():.3f}")


def _embedding(coupled: CoupledDecisions) -> Tensor:
    """Starting places of options: of a list equally far apart, shape [O, C]; the nearer, the more decisions."""
    is_option_F = coupled.options_F >= 0
    num_decisions = len(np.unique(coupled.groups_F[is_option_F]))
    place_O = np.zeros(coupled.options_F.max(initial=0) + 1, dtype=np.int64)
    place_O[coupled.options_F[is_option_F]] = coupled.places_F[is_option_F]
    apart_O = one_hot(torch.from_numpy(place_O)).double()
    if apart_O.shape[1] > MAX_COORDINATES:
        apart_O = torch.randn(len(place_O), MAX_COORDINATES).double() / math.sqrt(MAX_COORDINATES)
    return apart_O * math.sqrt(0.8 / num_decisions)


def standardise(features_MF: Floats) -> tuple[Floats, Floats]:
    """Shift and spread per feature: 0/1 columns stay, the others get mean 0 and deviation 1."""
    binary_F = np.all((features_MF == 0) | (features_MF == 1), axis=0)
    spread_F = features_MF.std(axis=0)
    constant_F = binary_F | (spread_F < 1e-12)
    return np.where(binary_F, 0.0, features_MF.mean(axis=0)), np.where(constant_F, 1.0, spread_F)
