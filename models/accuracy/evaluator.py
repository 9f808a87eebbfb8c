"""The evaluator's accuracy models: features of an architecture to its top-1 accuracy, in numpy and as ONNX graphs.

They predict y = -log(ceiling - accuracy): an error of 0.1 points matters more close to the ceiling than far below it,
and y is close to normal. The ceiling is 1, or learned from records that crowd under a lower one. What is fitted lives
in `trainer/evaluator/train.py`; here are the formulas. Axis letters:
N = architectures asked, M = architectures trained on, F = features, P = coordinates of an embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from pnag.models.onnx.scalar_graph import GraphBuilder, model_bytes

Floats = NDArray[np.float64]


class AccuracyModel(Protocol):
    """Predicts top-1 accuracy as a fraction from features, and exports itself."""

    def __call__(self, features_NF: Floats) -> Floats:
        """Accuracy of each architecture, shape [N], in [0, 1]."""

    def to_onnx(self) -> bytes:
        """A model `features_NF (double) -> accuracy_N (double)` that computes the same."""


@dataclass(frozen=True)
class GaussianProcess:
    """Posterior mean of a Gaussian process with an ARD RBF plus an ARD linear kernel, in double precision.

        k(x, z) = s * exp(-|(x - z) / l|^2 / 2) + (w x) . z + ((v x) . z)^2        y(x) = m + scale * k(x, X) a

    The square is left out where v is None; of one-hot features it is what pairs of options add. Where there is an
    embedding P, (x - z) P / l takes the place of (x - z) / l: options that P puts close to each other are alike.

    Attributes:
        inputs_MF: training features.
        shift_F, spread_F: features are (x - shift) / spread before the kernel sees them.
        lengthscale_F, linear_F, quadratic_F, outputscale: l, w, v, s.
        embedding_FP: P, or None.
        ceiling: accuracy that y reaches only at infinity.
        weights_M: a = (K + noise I)^-1 y.
        mean, scale: of y before standardising.
        noise: variance of a measurement, in standardised y.
    """

    inputs_MF: Floats
    shift_F: Floats
    spread_F: Floats
    lengthscale_F: Floats
    linear_F: Floats
    outputscale: float
    constant: float
    weights_M: Floats
    mean: float
    scale: float
    noise: float = 0.05
    quadratic_F: Floats | None = None
    embedding_FP: Floats | None = None
    ceiling: float = 1.0

    def deviation(self, features_NF: Floats) -> Floats:
        """Posterior standard deviation of y, measurement noise left out; shape [N].

        var(x) = k(x, x) - k(x, X) (K + noise I)^-1 k(X, x)
        """
        factor_MM = np.linalg.cholesky(self._kernel(self.inputs_MF) + self.noise * np.eye(len(self.inputs_MF)))
        explained_MN = np.linalg.solve(factor_MM, self._kernel(features_NF).T)
        standardised_NF = (features_NF - self.shift_F) / self.spread_F
        prior_N = self.outputscale + np.sum(self.linear_F * standardised_NF**2, axis=1)
        if self.quadratic_F is not None:
            prior_N += np.sum(self.quadratic_F * standardised_NF**2, axis=1) ** 2
        variance_N = np.maximum(prior_N - np.sum(explained_MN**2, axis=0), 0.0)
        return np.asarray(self.scale * np.sqrt(variance_N))

    def _kernel(self, features_NF: Floats) -> Floats:
        """k(x, X), shape [N, M]."""
        return kernel(
            (features_NF - self.shift_F) / self.spread_F,
            (self.inputs_MF - self.shift_F) / self.spread_F,
            self.lengthscale_F,
            self.linear_F,
            self.outputscale,
            self.quadratic_F,
            self.embedding_FP,
        )

    def __call__(self, features_NF: Floats) -> Floats:
        return _accuracy(self.log_error(features_NF), self.ceiling)

    def log_error(self, features_NF: Floats) -> Floats:
        """y of each architecture, shape [N]."""
        x_NF, z_MF = self._scaled(features_NF), self._scaled(self.inputs_MF)
        squared_NM = np.sum(x_NF**2, axis=1, keepdims=True) + np.sum(z_MF**2, axis=1) - 2 * x_NF @ z_MF.T
        rbf_N = self.outputscale * np.exp(-0.5 * np.maximum(squared_NM, 0)) @ self.weights_M
        standardised_NF = (features_NF - self.shift_F) / self.spread_F
        y_N = self.constant + rbf_N + standardised_NF @ self._linear_weights()
        quadratic_FF = self._quadratic_weights()
        if quadratic_FF is not None:
            y_N = y_N + np.sum(standardised_NF @ quadratic_FF * standardised_NF, axis=1)
        return np.asarray(self.mean + self.scale * y_N)

    def to_onnx(self) -> bytes:
        graph = GraphBuilder()
        z_MF = self._scaled(self.inputs_MF)
        x = graph.node("Sub", "features", graph.constant(self.shift_F))
        standardised = graph.node("Div", x, graph.constant(self.spread_F))
        scaled = self._embedded(graph, graph.node("Div", standardised, graph.constant(self.lengthscale_F)))
        # -|x - z|^2 / 2 = x . z - |x|^2 / 2 - |z|^2 / 2 in one product: its output is by far the largest tensor here.
        norm = graph.node("ReduceSum", graph.node("Mul", scaled, scaled), graph.constant(np.array([1])), keepdims=1)
        half = graph.node("Mul", norm, graph.constant(np.array(-0.5)))
        ones = graph.constant(np.ones((len(z_MF), 1)))
        inputs = graph.node("Concat", self._scaled_inputs(graph), ones, axis=1)
        exponent = graph.node(
            "Gemm",
            graph.node("Concat", scaled, half, axis=1),
            inputs,
            graph.constant(-0.5 * np.sum(z_MF**2, axis=1)),
            transB=1,
        )
        weights_M1 = self.scale * self.outputscale * self.weights_M[:, np.newaxis]
        rbf = graph.node("MatMul", graph.node("Exp", exponent), graph.constant(weights_M1))
        linear_F1 = self.scale * self._linear_weights()[:, np.newaxis]
        linear = graph.node("MatMul", standardised, graph.constant(linear_F1))
        total = graph.node("Add", rbf, linear)
        y = graph.node("Squeeze", total, graph.constant(np.array([1])))
        quadratic_FF = self._quadratic_weights()
        if quadratic_FF is not None:
            weighed = graph.node("MatMul", standardised, graph.constant(self.scale * quadratic_FF))
            pairs = graph.node("Mul", weighed, standardised)
            y = graph.node("Add", y, graph.node("ReduceSum", pairs, graph.constant(np.array([1])), keepdims=0))
        y = graph.node("Add", y, graph.constant(np.array(self.mean + self.scale * self.constant)))
        return _finish(graph, y, len(self.shift_F), self.ceiling)

    def _scaled(self, features: Floats) -> Floats:
        return _scale((features - self.shift_F) / self.spread_F, self.lengthscale_F, self.embedding_FP)

    def _embedded(self, graph: GraphBuilder, scaled: str) -> str:
        return scaled if self.embedding_FP is None else graph.node("MatMul", scaled, graph.constant(self.embedding_FP))

    def _linear_weights(self) -> Floats:
        standardised_MF = (self.inputs_MF - self.shift_F) / self.spread_F
        weights: Floats = self.linear_F * (standardised_MF.T @ self.weights_M)
        return weights

    def _quadratic_weights(self) -> Floats | None:
        """Q, shape [F, F], with x Q x = sum over records of a ((v x) . z)^2; None where that part is left out."""
        if self.quadratic_F is None:
            return None
        weighted_MF = (self.inputs_MF - self.shift_F) / self.spread_F * self.quadratic_F
        weights: Floats = weighted_MF.T @ (weighted_MF * self.weights_M[:, np.newaxis])
        return weights

    def _scaled_inputs(self, graph: GraphBuilder) -> str:
        """The training inputs, stored small: whole numbers that fit as int8, the rest as doubles.

        ONNX Runtime folds the arithmetic on them once, at load.
        """
        whole = np.all((self.inputs_MF == np.round(self.inputs_MF)) & (np.abs(self.inputs_MF) < 128), axis=0)
        first_real = len(whole) if whole.all() else int(np.argmin(whole))
        small = graph.node(
            "Cast", graph.constant(self.inputs_MF[:, :first_real].astype(np.int8)), to=TensorProto.DOUBLE
        )
        inputs = graph.node("Concat", small, graph.constant(self.inputs_MF[:, first_real:]), axis=1)
        shifted = graph.node("Sub", inputs, graph.constant(self.shift_F))
        return self._embedded(graph, graph.node("Div", shifted, graph.constant(self.spread_F * self.lengthscale_F)))


def kernel(
    x_NF: Floats, z_MF: Floats, lengthscale_F: Floats, linear_F: Floats, outputscale: float,
    quadratic_F: Floats | None = None, embedding_FP: Floats | None = None,
) -> Floats:  # fmt: skip
    """k of standardised features, shape [N, M]."""
    scaled_NF, scaled_MF = (_scale(x, lengthscale_F, embedding_FP) for x in (x_NF, z_MF))
    squared_NM = (
        np.sum(scaled_NF**2, axis=1)[:, np.newaxis] + np.sum(scaled_MF**2, axis=1) - 2 * scaled_NF @ scaled_MF.T
    )
    covariance_NM = outputscale * np.exp(-0.5 * np.maximum(squared_NM, 0)) + (x_NF * linear_F) @ z_MF.T
    if quadratic_F is not None:
        covariance_NM += ((x_NF * quadratic_F) @ z_MF.T) ** 2
    return np.asarray(covariance_NM)


def _scale(x_NF: Floats, lengthscale_F: Floats, embedding_FP: Floats | None) -> Floats:
    scaled_NF = x_NF / lengthscale_F
    return scaled_NF if embedding_FP is None else scaled_NF @ embedding_FP


@dataclass(frozen=True)
class MlpEnsemble:
    """Mean of several ReLU networks over standardised features; for more records than a Gaussian process can hold.

    Attributes:
        networks: per network its layers as (weights [inputs, outputs], biases [outputs]).
    """

    networks: Sequence[Sequence[tuple[Floats, Floats]]]
    shift_F: Floats
    spread_F: Floats
    mean: float
    scale: float

    def __call__(self, features_NF: Floats) -> Floats:
        total_N = np.zeros(len(features_NF))
        for network in self.networks:
            hidden = (features_NF - self.shift_F) / self.spread_F
            for number, (weights, biases) in enumerate(network):
                hidden = hidden @ weights + biases
                if number < len(network) - 1:
                    hidden = np.maximum(hidden, 0)
            total_N += hidden[:, 0]
        return _accuracy(self.mean + self.scale * total_N / len(self.networks))

    def to_onnx(self) -> bytes:
        graph = GraphBuilder()
        x = graph.node("Sub", "features", graph.constant(self.shift_F))
        x = graph.node("Div", x, graph.constant(self.spread_F))
        outputs = []
        for network in self.networks:
            hidden = x
            for number, (weights, biases) in enumerate(network):
                hidden = graph.node("MatMul", hidden, _stored_small(graph, weights))
                hidden = graph.node("Add", hidden, graph.constant(biases))
                if number < len(network) - 1:
                    hidden = graph.node("Max", hidden, graph.constant(np.array(0.0)))
            outputs.append(hidden)
        total = graph.node("Sum", *outputs) if len(outputs) > 1 else outputs[0]
        y = graph.node("Mul", total, graph.constant(np.array(self.scale / len(self.networks))))
        y = graph.node("Add", y, graph.constant(np.array(self.mean)))
        y = graph.node("Squeeze", y, graph.constant(np.array([1])))
        return _finish(graph, y, len(self.shift_F))


def to_log_error(accuracy: Floats, ceiling: float = 1.0) -> Floats:
    """y = -log(ceiling - accuracy); the ceiling itself is held a hair below, where y would be infinite."""
    log_error: Floats = -np.log1p(ceiling - 1 - np.minimum(accuracy, ceiling - 1e-6))
    return log_error


def _accuracy(y: Floats, ceiling: float = 1.0) -> Floats:
    """Undo `to_log_error`; a wild extrapolation stays a probability."""
    accuracy: Floats = np.clip(ceiling - 1 - np.expm1(-y), 0.0, 1.0)
    return accuracy


def _stored_small(graph: GraphBuilder, weights: Floats) -> str:
    """Weights as float32, widened once at load."""
    return graph.node("Cast", graph.constant(weights.astype(np.float32)), to=TensorProto.DOUBLE)


def _finish(graph: GraphBuilder, y: str, num_features: int, ceiling: float = 1.0) -> bytes:
    """Close a graph with accuracy = clip(ceiling - exp(-y), 0, 1)."""
    gap = graph.node("Exp", graph.node("Neg", y))
    accuracy = graph.node("Sub", graph.constant(np.array(ceiling)), gap)
    graph.node("Clip", accuracy, graph.constant(np.array(0.0)), graph.constant(np.array(1.0)), output="accuracy")
    inputs = [helper.make_tensor_value_info("features", TensorProto.DOUBLE, ["N", num_features])]
    outputs = [helper.make_tensor_value_info("accuracy", TensorProto.DOUBLE, ["N"])]
    return model_bytes(graph.graph("evaluator", inputs, outputs))
