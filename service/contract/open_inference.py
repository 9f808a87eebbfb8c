"""Tensors of the Open Inference Protocol (KServe v2): JSON, or bytes after the JSON ("binary tensor data")."""

import struct
from collections.abc import Callable, Sequence
from math import prod
from typing import Annotated, Any, Literal, NotRequired

import orjson
from pydantic import BaseModel, ConfigDict, Field, with_config
from typing_extensions import TypedDict

from pnag.service.contract.problems import ConflictingFieldsError
from pnag.service.contract.schemas import WHOLE, AnswerBody, Conditions

HEADER_LENGTH = "inference-header-content-length"
INPUT = "budget_ms"

# What the protocol has beside what we read is ignored, but what we read is read strictly.
_LENIENT = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)

Datatype = Literal["FP32", "FP64"]
_FORMATS: dict[str, str] = {"FP32": "f", "FP64": "d"}
"""As `struct` calls them; little-endian."""

OUTPUTS: dict[str, tuple[str, Callable[[AnswerBody], Any]]] = {
    "encoding": ("BYTES", lambda answer: answer["architecture"]["encoding"]),
    "architecture_id": ("BYTES", lambda answer: answer["architecture"]["id"]),
    "top1_percent": ("FP64", lambda answer: answer["predicted"]["top1_percent"]),
    "latency_ms": ("FP64", lambda answer: answer["predicted"]["latency_ms"]),
    "latency_upper_ms": ("FP64", lambda answer: answer["predicted"]["latency_upper_ms"]),
}
"""Name -> datatype, and where it stands in an answer."""


class TensorParameters(BaseModel):
    """What of it is sent as bytes; other parameters are ignored."""

    model_config = _LENIENT

    binary_data_size: Annotated[int, Field(ge=0), WHOLE] | None = None
    binary_data: bool | None = None


class InferInput(BaseModel):
    """One input tensor."""

    model_config = _LENIENT

    name: Literal["budget_ms"]
    shape: list[Annotated[int, Field(ge=1, le=1_000_000), WHOLE]] = Field(min_length=1, max_length=2, examples=[[2]])
    """[N] or [N, 1]: latency budgets in ms."""
    datatype: Datatype
    data: list[float | list[float]] | None = Field(default=None, examples=[[20, 30]])
    parameters: TensorParameters = TensorParameters()


class InferOutput(BaseModel):
    """An output that is wanted."""

    model_config = _LENIENT

    name: Literal["encoding", "architecture_id", "top1_percent", "latency_ms", "latency_upper_ms"]
    parameters: TensorParameters = TensorParameters()


class InferParameters(Conditions):
    """The conditions of `/generate`, for all budgets; what the protocol has beside these is ignored."""

    model_config = _LENIENT

    binary_data_output: bool = False


class InferRequest(BaseModel):
    """An inference request; all outputs are sent where none is named."""

    model_config = _LENIENT

    id: Annotated[str, Field(max_length=200)] | None = None
    parameters: InferParameters = InferParameters()
    inputs: list[InferInput] = Field(min_length=1, max_length=1)
    outputs: list[InferOutput] = Field(default=[], max_length=len(OUTPUTS))


class TensorMetadata(TypedDict):
    """Name and kind of a tensor."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(TypedDict):
    """What a bundle takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServerMetadata(TypedDict):
    """This server."""

    name: str
    version: str
    extensions: list[str]


class ModelReady(TypedDict):
    """Whether a bundle answers."""

    name: str
    ready: bool


class OutputTensor(TensorMetadata):
    """One output tensor."""

    data: NotRequired[list[str | float]]
    parameters: NotRequired[dict[str, int]]


@with_config(ConfigDict(use_attribute_docstrings=True))
class InferResponse(TypedDict):
    """The answers, one per budget."""

    model_name: str
    model_version: str
    id: NotRequired[str]
    outputs: list[OutputTensor]


def read_request(body: bytes, header_length: str | None) -> tuple[InferRequest, list[float]]:
    """The request, and its budgets in ms.

    Raises:
        ValidationError: if the JSON is not a request.
        ConflictingFieldsError: naming what does not fit together.
    """
    split = len(body)
    if header_length is not None:
        if not header_length.isascii() or not header_length.isdigit() or int(header_length) > len(body):
            raise ConflictingFieldsError(HEADER_LENGTH, f"{header_length!r} is not a number of bytes of this body")
        split = int(header_length)
    request = InferRequest.model_validate_json(body[:split])
    tensor = request.inputs[0]
    count = prod(tensor.shape)
    if len(tensor.shape) == 2 and tensor.shape[1] != 1:
        raise ConflictingFieldsError("inputs.0.shape", f"{tensor.shape}; expected [N] or [N, 1]")
    size = tensor.parameters.binary_data_size
    if size is not None:
        layout = f"<{count}{_FORMATS[tensor.datatype]}"
        if size != struct.calcsize(layout) or size != len(body) - split:
            raise ConflictingFieldsError(
                "inputs.0.parameters.binary_data_size",
                f"{size} bytes for {count} x {tensor.datatype}, and {len(body) - split} bytes after the JSON",
            )
        values = list(struct.unpack(layout, body[split:]))
    else:
        rows = tensor.data or []
        values = [value for row in rows for value in (row if isinstance(row, list) else [row])]
    if len(values) != count:
        raise ConflictingFieldsError("inputs.0.data", f"{len(values)} values for shape {tensor.shape}")
    return request, values


def write_response(
    request: InferRequest, name: str, version: str, answers: Sequence[AnswerBody]
) -> tuple[bytes, int | None]:
    """The body, and how much of it is JSON if bytes follow."""
    shape = [len(answers), *request.inputs[0].shape[1:]]
    wanted = request.outputs or [InferOutput.model_validate({"name": name}) for name in OUTPUTS]
    outputs: list[OutputTensor] = []
    tail: list[bytes] = []
    for output in wanted:
        datatype, get = OUTPUTS[output.name]
        values = [get(answer) for answer in answers]
        tensor: OutputTensor = {"name": output.name, "datatype": datatype, "shape": shape}
        as_bytes = output.parameters.binary_data
        if as_bytes if as_bytes is not None else request.parameters.binary_data_output:
            tail.append(_to_bytes(datatype, values))
            tensor["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            tensor["data"] = values
        outputs.append(tensor)
    response: InferResponse = {"model_name": name, "model_version": version, "outputs": outputs}
    if request.id is not None:
        response["id"] = request.id
    head = orjson.dumps(response)
    return head + b"".join(tail), len(head) if tail else None


def tensors_metadata() -> tuple[list[TensorMetadata], list[TensorMetadata]]:
    """Inputs and outputs of every bundle."""
    inputs: list[TensorMetadata] = [{"name": INPUT, "datatype": "FP64", "shape": [-1]}]
    return inputs, [{"name": name, "datatype": datatype, "shape": [-1]} for name, (datatype, _) in OUTPUTS.items()]


def _to_bytes(datatype: str, values: Sequence[Any]) -> bytes:
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(value)) + value.encode() for value in values)
    return struct.pack(f"<{len(values)}{_FORMATS[datatype]}", *values)
