"""The interface of every supernet: the outputs of one of its architectures, and that architecture's own weights.

Axis letters: N = images, C = channels, H, W = rows and columns, D = decisions of the space.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from pnag.models.space.search_space import SearchSpace, Tokens
from pnag.trainer.supernet.plain_network import LayerState, PlainNetwork


class Supernet(nn.Module, ABC):
    """Weights that all architectures of a space share.

    Attributes:
        space: the architectures it holds weights for.
    """

    space: SearchSpace

    @abstractmethod
    def forward(self, images_NCHW: Tensor, tokens_D: Tokens) -> Tensor:  # noqa: N803 (the suffix is the shape)
        """Logits of one architecture, shape [N, classes]."""

    @abstractmethod
    def layer_states(self, tokens_D: Tokens) -> list[LayerState]:  # noqa: N803
        """One state per layer of `space.layers(encoding)`, input to output, as `PlainNetwork` takes them.

        Tensors may share memory with the supernet's own weights.
        """


def subnet(supernet: Supernet, tokens_D: Tokens) -> PlainNetwork:  # noqa: N803
    """One architecture as a network of its own, with a copy of the weights, in evaluation mode."""
    network = PlainNetwork(supernet.space.layers(supernet.space.encode(tokens_D)))
    network.load_layer_states(supernet.layer_states(tokens_D))
    return network.eval()
