"""A torch network built from `Layer`s alone: what a subnet is once it is cut out of its supernet.

A layer's state dict has these names, batch norm's being `weight`, `bias`, `running_mean`, `running_var` and
`num_batches_tracked`:

    conv     conv.weight [out, in, k, k], bn.*
    mbconv   expand.conv.weight, expand.bn.* (none without expansion); depthwise.conv.weight [expanded, 1, k, k],
             depthwise.bn.*; squeeze_excite.reduce.weight|bias, squeeze_excite.expand.weight|bias (1x1 convolutions;
             none without squeeze-excite); project.conv.weight, project.bn.*
    linear   linear.weight [out, in], linear.bias

Axis letters: N = images, C = channels, H, W = rows and columns.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pnag.models.errors import SearchSpaceError, WeightsError
from pnag.models.space.layers import Activation, Layer
from pnag.trainer.supernet.depthwise import DepthwiseConv2d

LayerState = dict[str, Tensor]

_ACTIVATIONS: dict[Activation, type[nn.Module]] = {"relu": nn.ReLU, "h_swish": nn.Hardswish}


class ConvUnit(nn.Module):
    """Convolution without bias, batch norm unless told otherwise, activation; padding keeps ceil(size / stride)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        has_batch_norm: bool = True,
        activation: Activation = "none",
    ) -> None:
        super().__init__()
        kind = DepthwiseConv2d if groups == in_channels == out_channels > 1 else nn.Conv2d
        self.conv = kind(in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out")
        self.bn = nn.BatchNorm2d(out_channels) if has_batch_norm else None
        self.act = _ACTIVATIONS[activation](inplace=True) if activation != "none" else None

    def forward(self, features_NCHW: Tensor) -> Tensor:  # noqa: N803 (the suffix is the shape)
        features_NCHW = self.conv(features_NCHW)
        if self.bn is not None:
            features_NCHW = self.bn(features_NCHW)
        return features_NCHW if self.act is None else self.act(features_NCHW)


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate that its mean decides; MobileNetV3's, gate relu6(x + 3) / 6."""

    def __init__(self, channels: int, squeeze_channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeeze_channels, 1)
        self.expand = nn.Conv2d(squeeze_channels, channels, 1)

    def forward(self, features_NCHW: Tensor) -> Tensor:  # noqa: N803
        means_NC11 = features_NCHW.mean((2, 3), keepdim=True)
        return features_NCHW * nn.functional.hardsigmoid(self.expand(torch.relu(self.reduce(means_NC11))))


class ConvLayer(ConvUnit):
    """A layer of kind conv."""

    def __init__(self, layer: Layer) -> None:
        super().__init__(
            layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride,
            has_batch_norm=layer.has_batch_norm, activation=layer.activation,
        )  # fmt: skip
        self.has_pool = layer.has_pool

    def forward(self, features_NCHW: Tensor) -> Tensor:  # noqa: N803
        features_NCHW = features_NCHW.mean((2, 3), keepdim=True) if self.has_pool else features_NCHW
        output_NCHW: Tensor = super().forward(features_NCHW)
        return output_NCHW


class MBConvLayer(nn.Module):
    """A layer of kind mbconv: expand, depthwise, squeeze-excite, project, add the input."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        expanded = layer.expanded_channels
        has_expansion = expanded != layer.in_channels
        self.expand = ConvUnit(layer.in_channels, expanded, activation=layer.activation) if has_expansion else None
        self.depthwise = ConvUnit(
            expanded, expanded, layer.kernel_size, layer.stride, groups=expanded, activation=layer.activation
        )
        self.squeeze_excite = SqueezeExcite(expanded, layer.squeeze_channels) if layer.squeeze_channels else None
        self.project = ConvUnit(expanded, layer.out_channels, has_batch_norm=layer.has_batch_norm)
        self.has_residual = layer.has_residual

    def forward(self, features_NCHW: Tensor) -> Tensor:  # noqa: N803
        inner_NCHW = features_NCHW if self.expand is None else self.expand(features_NCHW)
        inner_NCHW = self.depthwise(inner_NCHW)
        if self.squeeze_excite is not None:
            inner_NCHW = self.squeeze_excite(inner_NCHW)
        inner_NCHW = self.project(inner_NCHW)
        output_NCHW: Tensor = inner_NCHW + features_NCHW if self.has_residual else inner_NCHW
        return output_NCHW


class LinearLayer(nn.Module):
    """A layer of kind linear."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.linear = nn.Linear(layer.in_channels, layer.out_channels)
        self.has_pool = layer.has_pool

    def forward(self, features: Tensor) -> Tensor:
        pooled = features.mean((2, 3)) if self.has_pool else features.flatten(1)
        logits: Tensor = self.linear(pooled)
        return logits


_KINDS: dict[str, type[ConvLayer] | type[MBConvLayer] | type[LinearLayer]] = {
    "conv": ConvLayer,
    "mbconv": MBConvLayer,
    "linear": LinearLayer,
}


def layer_module(layer: Layer) -> nn.Module:
    """The torch module of one layer, with fresh weights.

    Raises:
        SearchSpaceError: if the layer is of a kind that has no module (a table-only space's, a plug-in's own).
    """
    if type(layer) is not Layer or layer.kind not in _KINDS:
        raise SearchSpaceError(f"layer {layer.key} has no torch module; those of kind {', '.join(_KINDS)} have")
    return _KINDS[layer.kind](layer)


class PlainNetwork(nn.Module):
    """Layers in a row; images [N, C, H, W] in, logits [N, classes] out.

    Attributes:
        blocks: one module per layer, in order.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__()
        self.layers = list(layers)
        self.blocks = nn.ModuleList(layer_module(layer) for layer in layers)

    def forward(self, images_NCHW: Tensor) -> Tensor:  # noqa: N803
        features = images_NCHW
        for block in self.blocks:
            features = block(features)
        return features

    def layer_states(self) -> list[LayerState]:
        """The state of each layer, in order; tensors share memory with the network."""
        return [dict(block.state_dict()) for block in self.blocks]

    def load_layer_states(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Copy weights in, one state per layer.

        Raises:
            WeightsError: naming the layer, and the entries that are missing, unknown or of another shape.
        """
        if len(states) != len(self.blocks):
            raise WeightsError(f"weights are for {len(states)} layers; the network has {len(self.blocks)}")
        for position, (layer, block, state) in enumerate(zip(self.layers, self.blocks, states, strict=True), start=1):
            try:
                block.load_state_dict(state)
            except RuntimeError as exc:
                reason = " ".join(str(exc).split()).partition(": ")[2]
                raise WeightsError(f"layer {position} ({layer.key}): {reason}") from None
