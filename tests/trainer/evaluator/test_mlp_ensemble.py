"""The evaluator for many records."""

import warnings
from typing import Any

import numpy as np
import pytest
import sklearn.neural_network
from sklearn.exceptions import ConvergenceWarning

from pnag.trainer.config import EvaluatorConfig
from pnag.trainer.evaluator.train import _fit_mlp_ensemble
from pnag.trainer.progress import show_progress


def test_the_weight_decay_of_a_step_does_not_grow_with_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    decays: list[float] = []
    original = sklearn.neural_network.MLPRegressor

    def spy(**settings: Any) -> Any:
        decays.append(settings["alpha"] / settings["batch_size"])  # what scikit-learn makes of it
        return original(**{**settings, "max_iter": 2, "early_stopping": False, "n_iter_no_change": 5})

    monkeypatch.setattr(sklearn.neural_network, "MLPRegressor", spy)
    rng = np.random.default_rng(0)
    config = EvaluatorConfig(mlp_members=1, mlp_hidden=(4,))
    with show_progress() as progress, warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # two steps are no training
        for count in (100, 1000, 4000):
            x = rng.random((count, 3))
            _fit_mlp_ensemble(x, x.sum(axis=1), config, 0, progress)
    assert np.allclose(decays, config.mlp_weight_decay)
