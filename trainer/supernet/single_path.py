"""A single-path supernet: one block per choice per layer, of which an architecture uses one each."""

from torch import Tensor, nn

from pnag.models.errors import SearchSpaceError
from pnag.models.space.search_space import SearchSpace, Tokens
from pnag.trainer.supernet.plain_network import LayerState, layer_module
from pnag.trainer.supernet.supernet import Supernet

LARGEST = 4096
"""Blocks; a space with more shares weights inside a layer (an elastic supernet) or not at all."""


class SinglePathSupernet(Supernet):
    """For any space whose cost groups have few variants each, such as `nas-bench-macro`.

    Weights are named `groups.<position>.<choices>.<layer>.<name in plain_network.py>`, where <choices> are the tokens
    of the group's decisions joined by `_`, or `all` for layers that every architecture has.

    Raises:
        SearchSpaceError: if the space has no layers, or more blocks than LARGEST.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.space = space
        self.groups = nn.ModuleList()
        self._columns: list[list[int]] = []
        variants = [space.assignments(group.decisions) for group in space.cost_groups]
        if not space.has_layers or sum(len(tokens_VK) for tokens_VK in variants) > LARGEST:
            raise SearchSpaceError(
                f"{space.name} is no space for a single-path supernet: too many blocks, or no layers"
            )
        for group, tokens_VK in zip(space.cost_groups, variants, strict=True):
            columns = [space.index(name) for name in group.decisions]
            choices = nn.ModuleDict()
            for tokens_K in tokens_VK:
                options = [
                    None if token < 0 else space.decisions[column].options[token]
                    for column, token in zip(columns, tokens_K, strict=True)
                ]
                choices[_name(tokens_K)] = nn.Sequential(*(layer_module(layer) for layer in group.build(*options)))
            self.groups.append(choices)
            self._columns.append(columns)

    def forward(self, images_NCHW: Tensor, tokens_D: Tokens) -> Tensor:  # noqa: N803 (the suffix is the shape)
        features = images_NCHW
        for block in self._path(tokens_D):
            features = block(features)
        return features

    def layer_states(self, tokens_D: Tokens) -> list[LayerState]:  # noqa: N803
        return [dict(layer.state_dict()) for block in self._path(tokens_D) for layer in block]

    def _path(self, tokens_D: Tokens) -> list[nn.Sequential]:  # noqa: N803
        path = []
        for choices, columns in zip(self.groups, self._columns, strict=True):
            block = choices[_name(tokens_D[columns])]  # type: ignore[index]
            assert isinstance(block, nn.Sequential)
            path.append(block)
        return path


def _name(tokens_K: Tokens) -> str:  # noqa: N803
    return "_".join(str(int(token)) for token in tokens_K) or "all"
