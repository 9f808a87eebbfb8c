"""A graph in int8: ONNX Runtime's own static quantisation, weights per channel, QDQ nodes."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

BATCH = 16
"""Images whose activations are looked at together."""


def quantize(model: onnx.ModelProto, images_NCHW: NDArray[np.float32] | None = None) -> bytes:  # noqa: N803
    """The serialised int8 graph of an fp32 one; input and output stay float, as a served network's do.

    Args:
        images_NCHW: set the activations' ranges. Without them one random input does: the ranges decide what comes out,
            not how long it takes.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    source = model.graph.input[0]
    if images_NCHW is None:
        shape = [dimension.dim_value for dimension in source.type.tensor_type.shape.dim]
        images_NCHW = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)  # noqa: N806
    batches = np.array_split(images_NCHW, -(-len(images_NCHW) // BATCH))

    class Batches(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left: list[dict[str, Any]] = [{source.name: batch} for batch in batches]

        def get_next(self) -> dict[str, Any] | None:
            return self._left.pop() if self._left else None

    with tempfile.TemporaryDirectory() as folder, _quiet():
        before, after = Path(folder, "fp32.onnx"), Path(folder, "int8.onnx")
        onnx.save(model, before)
        quantize_static(
            before, after, Batches(), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
        return after.read_bytes()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice to optimise first: the session does that itself, and our graphs leave little to do."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
