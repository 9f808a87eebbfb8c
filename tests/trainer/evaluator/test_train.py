"""What the Gaussian process finds out about options and accuracies of a space without layers."""

import numpy as np

from pnag.models.accuracy.evaluator import GaussianProcess
from pnag.models.accuracy.features import ArchitectureFeatures
from pnag.models.space.search_space import Tokens
from pnag.trainer.config import EvaluatorConfig
from pnag.trainer.evaluator.gaussian_process import fit_gaussian_process
from pnag.trainer.progress import SILENT
from pnag.trainer.tabular.space_file import parse_space

OPTIONS = "[a, b, c, d, e, f, g, h]"
SPACE = parse_space(f"name: s\ndecisions: {{op1: {OPTIONS}, op2: {OPTIONS}, op3: {OPTIONS}}}")
GAIN = np.array([1.0, 1.0, 0.9, 0.0, 0.1, 0.1, -0.5, -0.6])
FEATURES = ArchitectureFeatures(SPACE)


def accuracy_of(tokens_ND: Tokens) -> np.ndarray:
    """Crowded under .9; a, b and c are alike, and so are d, e and f."""
    score_N = GAIN[tokens_ND].sum(axis=1) + GAIN[tokens_ND[:, 0]] * GAIN[tokens_ND[:, 1]]
    return np.asarray(0.9 - 0.05 * np.exp(-score_N))


def fitted() -> GaussianProcess:
    tokens_ND = SPACE.sample(120, np.random.default_rng(0))
    model, _ = fit_gaussian_process(
        FEATURES(tokens_ND), accuracy_of(tokens_ND), EvaluatorConfig(), 0, SILENT, FEATURES.coupled
    )
    return model


def test_records_crowded_under_a_ceiling_are_told_apart() -> None:
    model = fitted()
    everything = SPACE.all_architectures()
    assert everything is not None
    truth_N = accuracy_of(everything)
    predicted_N = model(FEATURES(everything))
    assert 0.9 - 0.01 < model.ceiling < 0.9 + 0.02
    assert truth_N[np.argmax(predicted_N)] >= np.quantile(truth_N, 0.99)


def test_options_that_do_the_same_are_close_wherever_they_stand() -> None:
    model = fitted()
    assert model.embedding_FP is not None
    for place in range(3):
        option = model.embedding_FP[8 * place : 8 * place + 8]
        a, b, h = option[0], option[1], option[7]
        assert np.linalg.norm(a - b) < np.linalg.norm(a - h)


def test_more_records_may_be_better_than_those_the_ceiling_was_learned_from() -> None:
    tokens_ND = SPACE.sample(60, np.random.default_rng(0))
    accuracy_N = accuracy_of(tokens_ND)
    low = np.argsort(accuracy_N)[:40]
    _, extend = fit_gaussian_process(
        FEATURES(tokens_ND[low]), accuracy_N[low], EvaluatorConfig(gp_steps=20), 0, SILENT, FEATURES.coupled
    )
    model = extend(FEATURES(tokens_ND), accuracy_N)
    assert isinstance(model, GaussianProcess)
    assert model.ceiling > accuracy_N.max()
    assert np.isfinite(model(FEATURES(tokens_ND))).all()
