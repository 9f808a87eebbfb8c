"""ONNX Runtime sessions, set up in one way for everything that runs a model on this machine."""

from typing import TypeAlias

import numpy as np
import onnxruntime
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Session: TypeAlias = onnxruntime.InferenceSession

EVALUATED_AT_ONCE = 64
"""Architectures; each meets every training record, and ONNX Runtime keeps the memory of the largest run for good."""


def open_session(model: bytes, threads: int = 1) -> Session:
    """Load an ONNX model on the CPU.

    Args:
        threads: two are slower than one at the sizes of a bundle's models.

    Raises:
        Exception: one of ONNX Runtime's own classes, which have no common base, if it cannot load the model.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_evaluator(session: Session, features_NF: Floats) -> Floats:
    """Accuracy of each architecture as a fraction, shape [N].

    Rounded to 9 decimals: the last bits depend on how many architectures are asked at once, and answers must not.
    """
    parts = [
        session.run(None, {"features": features_NF[start : start + EVALUATED_AT_ONCE]})[0]
        for start in range(0, max(len(features_NF), 1), EVALUATED_AT_ONCE)
    ]
    accuracy_N: Floats = np.round(np.concatenate(parts), 9)
    return accuracy_N
