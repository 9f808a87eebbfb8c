from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest

from pnag.models.accuracy.evaluator import AccuracyModel, GaussianProcess, MlpEnsemble, to_log_error
from pnag.models.accuracy.features import ArchitectureFeatures
from pnag.models.space.registry import get_space
from pnag.models.space.search_space import Decision
from pnag.models.space.tabular import TableSpace


def _gaussian_process(rng: np.random.Generator) -> GaussianProcess:
    inputs = np.concatenate([rng.integers(0, 2, (30, 7)), rng.normal(size=(30, 2))], axis=1).astype(np.float64)
    return GaussianProcess(
        inputs_MF=inputs, shift_F=rng.normal(size=9), spread_F=rng.uniform(0.5, 2, 9),
        lengthscale_F=rng.uniform(1, 3, 9), linear_F=rng.uniform(0, 0.1, 9), outputscale=0.7, constant=0.1,
        weights_M=rng.normal(size=30) * 0.1, mean=1.4, scale=0.2,
    )  # fmt: skip


def _with_pairs(rng: np.random.Generator) -> GaussianProcess:
    return replace(_gaussian_process(rng), quadratic_F=rng.uniform(0, 0.1, 9))


def _with_embedding(rng: np.random.Generator) -> GaussianProcess:
    return replace(_with_pairs(rng), embedding_FP=rng.normal(size=(9, 4)) * 0.3, ceiling=0.9)


def _mlp_ensemble(rng: np.random.Generator) -> MlpEnsemble:
    shapes = [(9, 8), (8, 4), (4, 1)]
    networks = [
        [(rng.normal(size=s).astype(np.float32).astype(np.float64), rng.normal(size=s[1])) for s in shapes]
        for _ in range(3)
    ]
    return MlpEnsemble(networks, rng.normal(size=9), rng.uniform(0.5, 2, 9), 1.4, 0.05)


@pytest.mark.parametrize("make", [_gaussian_process, _with_pairs, _with_embedding, _mlp_ensemble])
def test_onnx_computes_what_numpy_does(make: object) -> None:
    rng = np.random.default_rng(0)
    model: AccuracyModel = make(rng)  # type: ignore[operator]
    session = onnxruntime.InferenceSession(model.to_onnx(), providers=["CPUExecutionProvider"])
    for count in (1, 50):
        features = rng.normal(size=(count, 9))
        np.testing.assert_allclose(session.run(None, {"features": features})[0], model(features), atol=1e-12)


@pytest.mark.parametrize("make", [_gaussian_process, _with_pairs, _with_embedding])
def test_the_gaussian_process_equals_its_kernel_written_out(
    make: Callable[[np.random.Generator], GaussianProcess],
) -> None:
    rng = np.random.default_rng(1)
    gp = make(rng)
    v = np.zeros(9) if gp.quadratic_F is None else gp.quadratic_F
    embedding = np.eye(9) if gp.embedding_FP is None else gp.embedding_FP
    features = rng.normal(size=(5, 9))
    expected = []
    for x in (features - gp.shift_F) / gp.spread_F:
        y = gp.constant
        for z, weight in zip((gp.inputs_MF - gp.shift_F) / gp.spread_F, gp.weights_M, strict=True):
            rbf = gp.outputscale * np.exp(-0.5 * np.sum(((x - z) / gp.lengthscale_F @ embedding) ** 2))
            y += weight * (rbf + np.sum(gp.linear_F * x * z) + np.sum(v * x * z) ** 2)
        expected.append(gp.ceiling - np.exp(-(gp.mean + gp.scale * y)))
    np.testing.assert_allclose(gp(features), expected, atol=1e-12)


def test_log_error_undoes_itself_and_survives_perfection() -> None:
    accuracy = np.array([0.01, 0.5, 0.76, 0.999])
    np.testing.assert_allclose(1 - np.exp(-to_log_error(accuracy)), accuracy, atol=1e-12)
    assert np.isfinite(to_log_error(np.array([1.0])))[0]
    np.testing.assert_allclose(0.8 - np.exp(-to_log_error(accuracy[:3], 0.8)), accuracy[:3], atol=1e-12)


def test_features_tell_architectures_apart_and_know_what_is_inactive() -> None:
    space = get_space("ofa-mobilenetv3-w1.0").restrict({"resolution": (224,)})
    features = ArchitectureFeatures(space)
    tokens_ND = space.sample(500, np.random.default_rng(2))
    matrix = features(tokens_ND)
    assert len(np.unique(matrix, axis=0)) == len(np.unique(tokens_ND, axis=0))
    one_hot = matrix[:, :-8]  # then five depths, their sum, log MACs, log params
    assert np.array_equal(one_hot.sum(axis=1), (tokens_ND != -1).sum(axis=1) - 1)  # the resolution says nothing
    assert np.array_equal(matrix[:, -8:-3].sum(axis=1), matrix[:, -3])


def test_alike_decisions_are_counted_together_and_each_decision_is_a_group() -> None:
    space = TableSpace(
        "s",
        (
            Decision("stem", ("a", "b")),
            Decision("op1", ("x", "y", "z")),
            Decision("op2", ("x", "y", "z"), {"stem": ("a",)}),
            Decision("op3", ("y", "z")),  # no record had x here
        ),
    )
    features = ArchitectureFeatures(space)
    tokens_ND = np.stack([space.decode("a:x:x:z"), space.decode("b:y::y")])
    counts = features(tokens_ND)[:, 10:13]
    assert counts.tolist() == [[2, 0, 1], [0, 2, 0]]  # of x, y, z; the inactive op2 counts for nothing
    coupled = features.coupled
    assert coupled is not None
    assert coupled.groups_F.tolist()[:13] == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 4, 4]
    assert len(coupled.groups_F) == len(coupled.options_F) == features(tokens_ND).shape[1]
    assert coupled.options_F.tolist()[:10] == [0, 1, 2, 3, 4, 2, 3, 4, 3, 4], "op3's y and z are those of op1"
    assert coupled.places_F.tolist()[:10] == [0, 1, 0, 1, 2, 0, 1, 2, 1, 2]
    assert set(coupled.options_F[10:]) == {-1}


def test_the_deviation_counts_every_part_of_the_kernel() -> None:
    """As if each architecture had been one of the inputs: k(x, x) from the kernel itself."""
    rng = np.random.default_rng(5)
    one, features_NF = _with_embedding(rng), rng.normal(size=(6, 9))
    prior_N = np.diag(replace(one, inputs_MF=features_NF)._kernel(features_NF))
    covariance_MM = one._kernel(one.inputs_MF) + one.noise * np.eye(len(one.inputs_MF))
    cross_NM = one._kernel(features_NF)
    explained_N = np.einsum("nm,nm->n", cross_NM, np.linalg.solve(covariance_MM, cross_NM.T).T)
    np.testing.assert_allclose(one.deviation(features_NF), one.scale * np.sqrt(prior_N - explained_N), rtol=1e-6)
