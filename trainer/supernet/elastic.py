"""OFA's elastic MobileNetV3: one set of weights that every subnet is a slice of.

The slices are those of Once-for-All (Cai et al. 2020, arXiv 1908.09791, section 3.3):

- Elastic kernel: a 5x5 kernel is the centre of the 7x7 one times a learned 25x25 matrix, a 3x3 one that of the 5x5.
- Elastic width: a narrower block keeps the first expanded channels, and a smaller squeeze-excite its first ones.
- Elastic depth: a shallower unit keeps its first blocks.

State-dict names and shapes are those of the official `ofa_mbv3_d234_e346_k357_w1.0` and `w1.2` checkpoints. A forward
pass cuts the slice and runs the plain network's layers on it, so a subnet and a plain network cannot disagree.

Axis letters: N = images, C = channels, H, W = rows and columns, D = decisions of the space; E = expanded channels.
"""

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pnag.models.errors import WeightsError
from pnag.models.space.layers import Layer, make_divisible
from pnag.models.space.ofa_mobilenetv3 import (
    CHANNELS,
    EXPAND_RATIOS,
    KERNEL_SIZES,
    MAX_DEPTH,
    NUM_CLASSES,
    NUM_UNITS,
    UNIT_HAS_SQUEEZE_EXCITE,
    OfaMobileNetV3,
)
from pnag.models.space.search_space import SearchSpace, Tokens
from pnag.trainer.supernet.plain_network import LayerState, layer_module
from pnag.trainer.supernet.supernet import Supernet

SE_REDUCTION = 4
_BLOCK, _BN = "mobile_inverted_conv", ("weight", "bias", "running_mean", "running_var")


class ElasticSupernet(Supernet):
    """The weights of every network of `ofa-mobilenetv3-w1.0` or `-w1.2`.

    Raises:
        WeightsError: if the space is another one.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        if not isinstance(space, OfaMobileNetV3):
            raise WeightsError(f"{space.name} has no elastic supernet; ofa-mobilenetv3-w1.0 and -w1.2 have")
        self.space, self.width = space, space.width
        stem, first, *units, expand, mix = space.channels
        self.first_conv = _convolution(3, stem, kernel_size=3)
        self.blocks = nn.ModuleList([nn.ModuleDict({_BLOCK: _first_block(stem, first)})])
        for unit in range(NUM_UNITS):
            for position in range(MAX_DEPTH):
                in_channels = units[unit] if position else [first, *units][unit]
                block = _elastic_block(in_channels, units[unit], UNIT_HAS_SQUEEZE_EXCITE[unit])
                self.blocks.append(nn.ModuleDict({_BLOCK: block}))
        self.final_expand_layer = _convolution(units[-1], expand)
        self.feature_mix_layer = nn.ModuleDict({"conv": nn.Conv2d(expand, mix, 1, bias=False)})
        self.classifier = nn.ModuleDict({"linear": nn.Linear(mix, NUM_CLASSES)})
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is None:
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        self._plain: dict[str, tuple[nn.Module]] = {}
        """Modules without weights, by layer; in tuples, so that they stay out of the state dict."""

    def forward(self, images_NCHW: Tensor, tokens_D: Tokens) -> Tensor:  # noqa: N803 (the suffix is the shape)
        features = images_NCHW
        for layer, state in self._slices(tokens_D):
            module = self._module(layer).train(self.training)
            features = functional_call(module, state, (features,))
        return features

    def _module(self, layer: Layer) -> nn.Module:
        if layer.key not in self._plain:
            with torch.device("meta"):
                self._plain[layer.key] = (layer_module(layer),)
        return self._plain[layer.key][0]

    def layer_states(self, tokens_D: Tokens) -> list[LayerState]:  # noqa: N803
        return [{name: tensor.detach() for name, tensor in state.items()} for _, state in self._slices(tokens_D)]

    def load_weights(self, file: Path) -> None:
        """Take an official checkpoint's weights, or those that `pnag supernet train` wrote.

        Raises:
            WeightsError: naming what is missing, unknown or of another shape, and the width if it is another's.
        """
        state = {name.replace(".conv.", f".{_BLOCK}.", 1) if _is_newer(name) else name: tensor
                 for name, tensor in read_state_dict(file).items()}  # fmt: skip
        own = self.state_dict()
        width = _width(state)
        if width is not None and width != self.width:
            raise WeightsError(
                f"{file.name} has weights of width {width}; {self.space.name} needs {self.width}: "
                f"name space ofa-mobilenetv3-w{width}"
            )
        counters = {name for name in own if name.endswith("num_batches_tracked")}
        problems = [f"{name} is missing" for name in own.keys() - state.keys() - counters]
        problems += [f"{name} is unknown" for name in state.keys() - own.keys()]
        problems += [
            f"{name} has shape {list(state[name].shape)}, not {list(own[name].shape)}"
            for name in own.keys() & state.keys()
            if state[name].shape != own[name].shape
        ]
        if problems:
            shown = "; ".join(sorted(problems)[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
            raise WeightsError(f"{file.name} does not fit {self.space.name}: {shown}")
        self.load_state_dict({**{name: own[name] for name in counters}, **state})

    def _slices(self, tokens_D: Tokens) -> Iterator[tuple[Layer, LayerState]]:  # noqa: N803
        """Each layer of an architecture with its slice of the weights."""
        tensors = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        encoding = self.space.encode(tokens_D)
        stem, first, *middle, expand, mix, linear = self.space.layers(encoding)
        yield stem, _conv_state(tensors, "first_conv")
        yield first, _first_state(tensors, f"blocks.0.{_BLOCK}")
        depths = self.space.describe(self.space.architecture(encoding))["depths"]
        active = [1 + unit * MAX_DEPTH + j for unit, depth in enumerate(depths) for j in range(depth)]
        for index, layer in zip(active, middle, strict=True):
            yield layer, _elastic_state(tensors, f"blocks.{index}.{_BLOCK}", layer)
        yield expand, _conv_state(tensors, "final_expand_layer")
        yield mix, {"conv.weight": tensors["feature_mix_layer.conv.weight"]}
        yield linear, {f"linear.{name}": tensors[f"classifier.linear.{name}"] for name in ("weight", "bias")}


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name; one level of `state_dict` (as OFA writes) or `model` around them may be.

    Raises:
        WeightsError: if the file is no checkpoint, or holds more than tensors and plain values: it is never executed.
    """
    try:
        document: Any = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError) as exc:
        raise WeightsError(f"{file.name}: not a checkpoint of tensors alone ({str(exc).splitlines()[0]})") from None
    for wrapper in ("state_dict", "model"):
        if isinstance(document, Mapping) and isinstance(document.get(wrapper), Mapping):
            document = document[wrapper]
    if not isinstance(document, Mapping) or not document or not all(isinstance(v, Tensor) for v in document.values()):
        raise WeightsError(f"{file.name}: holds no state dict; expected tensors by name, or those under `state_dict`")
    return {str(name).removeprefix("module."): tensor for name, tensor in document.items()}


# -- the modules, for their names -------------------------------------------------------------------------------------


def _convolution(in_channels: int, out_channels: int, kernel_size: int = 1, groups: int = 1) -> nn.ModuleDict:
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size, groups=groups, bias=False)
    return nn.ModuleDict({"conv": convolution, "bn": nn.BatchNorm2d(out_channels)})


def _elastic_convolution(
    in_channels: int, out_channels: int, kernel_size: int = 1, groups: int = 1, **more: nn.Module
) -> nn.ModuleDict:
    plain = _convolution(in_channels, out_channels, kernel_size, groups)
    return nn.ModuleDict(
        {"conv": nn.ModuleDict({"conv": plain["conv"]}), "bn": nn.ModuleDict({"bn": plain["bn"]})} | more
    )


def _first_block(in_channels: int, out_channels: int) -> nn.ModuleDict:
    depthwise = _convolution(in_channels, in_channels, kernel_size=3, groups=in_channels)
    return nn.ModuleDict({"depth_conv": depthwise, "point_linear": _convolution(in_channels, out_channels)})


def _elastic_block(in_channels: int, out_channels: int, has_squeeze_excite: bool) -> nn.ModuleDict:
    expanded = in_channels * max(EXPAND_RATIOS)
    more: dict[str, nn.Module] = {}
    if has_squeeze_excite:
        squeezed = make_divisible(expanded // SE_REDUCTION)
        gate = {"reduce": nn.Conv2d(expanded, squeezed, 1), "expand": nn.Conv2d(squeezed, expanded, 1)}
        more["se"] = nn.ModuleDict({"fc": nn.ModuleDict(gate)})
    depthwise = _elastic_convolution(expanded, expanded, max(KERNEL_SIZES), expanded, **more)
    for name, size in _transforms(min(KERNEL_SIZES)):
        depthwise["conv"].register_parameter(name, nn.Parameter(torch.eye(size**2)))
    return nn.ModuleDict(
        {
            "inverted_bottleneck": _elastic_convolution(in_channels, expanded),
            "depth_conv": depthwise,
            "point_linear": _elastic_convolution(expanded, out_channels),
        }
    )


# -- slices -----------------------------------------------------------------------------------------------------------


def _transforms(kernel_size: int) -> Iterator[tuple[str, int]]:
    """(name of the matrix, kernel size it makes), from the largest kernel down to `kernel_size`."""
    sizes = [size for size in sorted(KERNEL_SIZES, reverse=True) if size >= kernel_size]
    for larger, smaller in zip(sizes, sizes[1:], strict=False):
        yield f"{larger}to{smaller}_matrix", smaller


def _kernel(tensors: Mapping[str, Tensor], name: str, channels: int, kernel_size: int) -> Tensor:
    """Depthwise kernels [E, 1, k, k] of the first `channels` channels."""
    kernel_E1KK = tensors[f"{name}.conv.weight"][:channels]  # noqa: N806 (the suffix is the shape)
    for matrix, size in _transforms(kernel_size):
        margin = (kernel_E1KK.shape[-1] - size) // 2
        centre = kernel_E1KK[:, :, margin : margin + size, margin : margin + size].reshape(channels, size**2)
        kernel_E1KK = (centre @ tensors[f"{name}.{matrix}"].T).reshape(channels, 1, size, size)  # noqa: N806
    return kernel_E1KK


def _batch_norm(tensors: Mapping[str, Tensor], source: str, target: str, channels: int) -> LayerState:
    state = {f"{target}.{name}": tensors[f"{source}.{name}"][:channels] for name in _BN}
    return {**state, f"{target}.num_batches_tracked": tensors[f"{source}.num_batches_tracked"]}


def _conv_state(tensors: Mapping[str, Tensor], source: str, target: str = "") -> LayerState:
    weight = tensors[f"{source}.conv.weight"]
    return {f"{target}conv.weight": weight, **_batch_norm(tensors, f"{source}.bn", f"{target}bn", len(weight))}


def _first_state(tensors: Mapping[str, Tensor], source: str) -> LayerState:
    depthwise = _conv_state(tensors, f"{source}.depth_conv", "depthwise.")
    return {**depthwise, **_conv_state(tensors, f"{source}.point_linear", "project.")}


def _elastic_state(tensors: Mapping[str, Tensor], source: str, layer: Layer) -> LayerState:
    expanded, squeezed = layer.expanded_channels, layer.squeeze_channels
    bottleneck, depthwise, linear = (f"{source}.{n}" for n in ("inverted_bottleneck", "depth_conv", "point_linear"))
    state = {
        "expand.conv.weight": tensors[f"{bottleneck}.conv.conv.weight"][:expanded],
        "depthwise.conv.weight": _kernel(tensors, f"{depthwise}.conv", expanded, layer.kernel_size),
        "project.conv.weight": tensors[f"{linear}.conv.conv.weight"][:, :expanded],
        **_batch_norm(tensors, f"{bottleneck}.bn.bn", "expand.bn", expanded),
        **_batch_norm(tensors, f"{depthwise}.bn.bn", "depthwise.bn", expanded),
        **_batch_norm(tensors, f"{linear}.bn.bn", "project.bn", layer.out_channels),
    }
    if squeezed:
        gate = f"{depthwise}.se.fc"
        state |= {
            "squeeze_excite.reduce.weight": tensors[f"{gate}.reduce.weight"][:squeezed, :expanded],
            "squeeze_excite.reduce.bias": tensors[f"{gate}.reduce.bias"][:squeezed],
            "squeeze_excite.expand.weight": tensors[f"{gate}.expand.weight"][:expanded, :squeezed],
            "squeeze_excite.expand.bias": tensors[f"{gate}.expand.bias"][:expanded],
        }
    return state


# -- loading -----------------------------------------------------------------------------------------------------------


def _is_newer(name: str) -> bool:
    """True if a name is spelled as later versions of OFA's code do: `blocks.1.conv.…`."""
    parts = name.split(".")
    return parts[0] == "blocks" and len(parts) > 2 and parts[2] == "conv"


def _width(state: Mapping[str, Tensor]) -> str | None:
    """The width whose stem and feature mix a checkpoint has, None if none's."""
    stem, mix = state.get("first_conv.conv.weight"), state.get("feature_mix_layer.conv.weight")
    if stem is None or mix is None:
        return None
    return {(c[0], c[-1]): w for w, c in CHANNELS.items()}.get((len(stem), len(mix)))
