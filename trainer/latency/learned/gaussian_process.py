"""A Gaussian process whose kernel is a weighted sum of given ones, robust against outliers.

The weights maximise the marginal likelihood on a part of the rows (Rasmussen and Williams 2006, section 5.4.1).
Outliers count less each round: Student-t noise by reweighting.

Axis letters: N = rows, G = kernels.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

Floats = NDArray[np.float64]

MAX_TUNING = 350
"""Rows that the kernels' weights are tuned on: what they cost grows with the cube."""
DEGREES_OF_FREEDOM = 4.0
REWEIGHTINGS = 3


def robust_weights(residual_N: Floats) -> Floats:
    """Weights of a Student-t likelihood, its scale by the median absolute deviation."""
    scale = 1.4826 * float(np.median(np.abs(residual_N - np.median(residual_N))))
    if scale == 0:
        return np.ones(len(residual_N))
    weight_N: Floats = (DEGREES_OF_FREEDOM + 1) / (DEGREES_OF_FREEDOM + (residual_N / scale) ** 2)
    return weight_N


def fit_gaussian_process(grams: Sequence[Floats], target_N: Floats, seed: int) -> tuple[Floats, Floats]:
    """Weights of the kernels, shape [G], and the dual weights of the rows, shape [N]."""
    count = len(target_N)
    subset = np.random.default_rng(seed).permutation(count)[:MAX_TUNING]
    weight_N = robust_weights(target_N)
    weights_G, noise = np.ones(len(grams)), 1.0
    dual_N = np.zeros(count)
    for round_ in range(REWEIGHTINGS):
        if round_ < 2:  # the outliers are known after one round; tuning again would change little
            weights_G, noise = _tune([g[np.ix_(subset, subset)] for g in grams], target_N[subset], weight_N[subset])
        kernel_NN = sum((w * g for w, g in zip(weights_G, grams, strict=True)), np.zeros((count, count)))
        dual_N = cho_solve(cho_factor(kernel_NN + np.diag(noise / weight_N), lower=True), target_N)
        weight_N = robust_weights(target_N - kernel_NN @ dual_N)
    return weights_G, dual_N


def _tune(grams: Sequence[Floats], target_N: Floats, weight_N: Floats) -> tuple[Floats, float]:
    """Kernel weights and noise variance of the greatest marginal likelihood; a broad log-normal prior on weights."""
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
