"""The message passing of `models/accuracy` with parameters that a likelihood can fit; its axis letters."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from pnag.models.accuracy.features import CoupledDecisions
from pnag.models.accuracy.message_passing import MessagePassing, pairs, receive

MAX_NODES = 8
"""Decisions of one list; with more of them there are too many pairs to find out which receives from which."""
MAX_COORDINATES = 16
"""Of an option; those of a longer list start in random directions instead of at right angles."""
DEVIATION_PENALTY = 0.1
"""On the square of what an option adds to a logit."""


def shared_lists(ties: CoupledDecisions) -> list[int]:
    """Lists that two to MAX_NODES decisions choose from."""
    numbers = range(ties.lists_F.max(initial=-1) + 1)
    return [n for n in numbers if 2 <= len(np.unique(ties.groups_F[ties.lists_F == n])) <= MAX_NODES]


class FittedMessagePassing(torch.nn.Module):
    """At the start every node receives from the input and all nodes before it alike, whatever the other decisions."""

    def __init__(self, ties: CoupledDecisions, number: int) -> None:
        super().__init__()
        is_node_F = ties.lists_F == number
        self._option_F = torch.from_numpy(np.where(is_node_F, ties.options_F - ties.options_F[is_node_F].min(), 0))
        groups_J = np.unique(ties.groups_F[is_node_F])
        self._of_node_FJ = torch.from_numpy((ties.groups_F[:, np.newaxis] == groups_J).astype(np.float64))
        self._sets_strength_F = torch.from_numpy(((ties.lists_F >= 0) & ~is_node_F).astype(np.float64))
        num_options, num_nodes = int(self._option_F.max()) + 1, len(groups_J)

        def parameter(value: float, *shape: int) -> torch.nn.Parameter:
            return torch.nn.Parameter(torch.full(shape, value, dtype=torch.float64))

        self.options_OC = torch.nn.Parameter(_apart(num_options))
        self.raw_gate_O = parameter(-2.0, num_options)
        self.always_IJ = parameter(0.0, num_nodes + 1, num_nodes)
        self.raw_strength_FIJ = parameter(0.0, len(is_node_F), num_nodes + 1, num_nodes)
        self.log_scale = parameter(-0.5)

    def forward(self, x_NF: Tensor) -> Tensor:
        """Features, shape [N, C * C]."""
        node_NJC = torch.tensordot(x_NF, self._nodes_FJC(), 1)
        weight_NIJ = torch.exp(self.always_IJ + torch.tensordot(x_NF, self._strength_FIJ(), 1))
        features: Tensor = pairs(node_NJC, receive(node_NJC, weight_NIJ, x_NF @ self._gate_FJ()))
        return torch.exp(self.log_scale) * features

    def penalty(self) -> Tensor:
        """To be added to the negative logarithmic likelihood of all records."""
        return DEVIATION_PENALTY * torch.sum(self._strength_FIJ() ** 2)

    def frozen(self) -> MessagePassing:
        """As numbers."""
        return MessagePassing(
            nodes_FJC=self._nodes_FJC().detach().numpy(),
            strength_FIJ=self._strength_FIJ().detach().numpy(),
            always_IJ=self.always_IJ.detach().numpy(),
            gate_FJ=self._gate_FJ().detach().numpy(),
            scale=float(torch.exp(self.log_scale).item()),
        )

    def _nodes_FJC(self) -> Tensor:  # noqa: N802
        """Options have length 1: they differ in direction."""
        option_FC = normalize(self.options_OC, dim=1)[self._option_F]
        return pad(self._of_node_FJ[:, :, None] * option_FC[:, None, :], (0, 1))

    def _strength_FIJ(self) -> Tensor:  # noqa: N802
        return self._sets_strength_F[:, None, None] * self.raw_strength_FIJ

    def _gate_FJ(self) -> Tensor:  # noqa: N802
        return self._of_node_FJ * torch.sigmoid(self.raw_gate_O)[self._option_F][:, None]


def _apart(num_options: int) -> Tensor:
    """Directions of options, shape [O, C]."""
    if num_options <= MAX_COORDINATES:
        return torch.eye(num_options, dtype=torch.float64)
    return torch.randn(num_options, MAX_COORDINATES, dtype=torch.float64)
