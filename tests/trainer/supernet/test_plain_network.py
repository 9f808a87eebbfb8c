"""A subnet is a plain network, and a plain network costs what its layers say."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pnag.models.errors import SearchSpaceError, WeightsError
from pnag.models.space.layers import Layer
from pnag.models.space.registry import get_space
from pnag.models.space.search_space import SearchSpace
from pnag.trainer.supernet.plain_network import PlainNetwork, layer_module
from pnag.trainer.supernet.single_path import SinglePathSupernet
from pnag.trainer.supernet.supernet import subnet

MACRO, OFA = get_space("nas-bench-macro"), get_space("ofa-mobilenetv3-w1.0")


def _images(size: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("encoding", ["00000000", "11111111", "22222222", "02012100"])
def test_a_subnet_equals_the_supernets_own_path(encoding: str) -> None:
    torch.manual_seed(0)
    supernet = SinglePathSupernet(MACRO)
    for module in supernet.modules():  # batch norm that does something
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    tokens_D = MACRO.decode(encoding)
    images = _images(32)
    with torch.no_grad():
        expected = supernet.eval()(images, tokens_D)
        torch.testing.assert_close(subnet(supernet, tokens_D)(images), expected, atol=1e-5, rtol=1e-5)


def test_a_subnet_is_a_copy() -> None:
    supernet = SinglePathSupernet(MACRO)
    network = subnet(supernet, MACRO.decode("00000000"))
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())


def _count(network: PlainNetwork, size: int) -> tuple[list[int], list[int]]:
    """MACs and parameters per layer, counted from what runs."""
    macs: dict[int, int] = {}

    def hook(position: int):
        def count(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(module, nn.Conv2d | nn.Linear):
                per_output = module.weight[0].numel()
                macs[position] = macs.get(position, 0) + per_output * output.numel()

        return count

    for position, block in enumerate(network.blocks):
        for module in block.modules():
            module.register_forward_hook(hook(position))
    with torch.no_grad():
        network.eval()(_images(size, count=1))
    params = [sum(p.numel() for p in block.parameters()) for block in network.blocks]
    return [macs[position] for position in range(len(network.blocks))], params


@pytest.mark.parametrize("space", [MACRO, OFA], ids=lambda space: space.name)
def test_macs_and_parameters_counted_by_hooks_are_those_of_the_layers(space: SearchSpace) -> None:
    for tokens_D in space.sample(2, np.random.default_rng(0)):
        layers = space.layers(space.encode(tokens_D))
        macs, params = _count(PlainNetwork(layers), layers[0].input_size)
        assert macs == [layer.macs for layer in layers]
        assert params == [layer.params for layer in layers]


def test_the_supernet_has_one_block_per_choice() -> None:
    names = SinglePathSupernet(MACRO).state_dict().keys()
    assert {".".join(n.split(".")[:3]) for n in names if n.startswith("groups.1.")} == {
        f"groups.1.{i}" for i in range(3)
    }
    assert not any(n.startswith("groups.2.0.") for n in names), "the identity at stride 1 has no weights"
    assert "groups.9.all.1.linear.weight" in names


def test_weights_of_another_network_are_refused_by_layer_and_name() -> None:
    network = PlainNetwork(MACRO.layers("11111111"))
    states = network.layer_states()
    with pytest.raises(WeightsError, match="10 layers; the network has 11"):
        network.load_layer_states(states[:-1])
    wrong = [*states[:2], {**states[2], "project.conv.weight": torch.zeros(3)}, *states[3:]]
    with pytest.raises(WeightsError, match=r"layer 3 \(mbconv-in.*project\.conv\.weight"):
        network.load_layer_states(wrong)
    without = [*states[:2], {k: v for k, v in states[2].items() if k != "depthwise.bn.bias"}, *states[3:]]
    with pytest.raises(WeightsError, match="depthwise.bn.bias"):
        network.load_layer_states(without)


def test_layers_and_spaces_without_modules_are_refused() -> None:
    with pytest.raises(SearchSpaceError, match="has no torch module"):
        layer_module(Layer("option", 1, 1, 1))
    with pytest.raises(SearchSpaceError, match="no space for a single-path supernet"):
        SinglePathSupernet(get_space("ofa-mobilenetv3-w1.0"))
