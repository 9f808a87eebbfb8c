"""The elastic supernet against its peer, OFA's own code (PyPI `ofa`), and against plain networks."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from pnag.models.errors import WeightsError
from pnag.models.space.registry import get_space
from pnag.models.space.search_space import SearchSpace, Tokens
from pnag.trainer.supernet.elastic import ElasticSupernet, read_state_dict
from pnag.trainer.supernet.supernet import subnet

WIDTHS = ("1.0", "1.2")
SIZE = 64
"""Pixels: networks of any resolution have the same weights."""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Two threads on two cores that others use too wait for each other most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class _Anything(ModuleType):
    """Stands for what the peer imports at its edges and never uses here: image transforms, downloads, bars."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return sys.modules.get(f"{self.__name__}.{name}") or type(name, (), {})


@pytest.fixture(scope="module")
def peer_class() -> type:
    """`OFAMobileNetV3`; torchvision on PyPI does not import beside a CPU build of torch, and the networks need none."""
    edges = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional", "torchvision.datasets")
    stands_in = [name for name in (*edges, "tqdm", "gdown") if name not in sys.modules]
    sys.modules.update({name: _Anything(name) for name in stands_in})
    try:
        from ofa.imagenet_classification.elastic_nn.networks.ofa_mbv3 import OFAMobileNetV3
    finally:
        for name in stands_in:
            del sys.modules[name]
    return cast(type, OFAMobileNetV3)


def _randomize(network: nn.Module) -> None:
    """Weights, statistics and transform matrices that all matter."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if not tensor.is_floating_point():
                continue
            if name.endswith("running_var") or (name.endswith("bn.weight")):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.dim() > 1:
                tensor.normal_(0, (1 / tensor[0].numel()) ** 0.5, generator=generator)
            else:
                tensor.normal_(0, 0.1, generator=generator)


def _tokens(space: SearchSpace, count: int) -> list[Tokens]:
    rng = np.random.default_rng(0)
    ends = [space.canonical(row[np.newaxis])[0] for row in (space.num_options_D * 0, space.num_options_D - 1)]
    return [*ends, *space.sample(count, rng)]


def _images(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", params=WIDTHS)
def pair(request: pytest.FixtureRequest, peer_class: type) -> tuple[ElasticSupernet, Any]:
    """Ours and the peer's, with the same random state."""
    peer = peer_class(width_mult=float(request.param), ks_list=[3, 5, 7], expand_ratio_list=[3, 4, 6],
                      depth_list=[2, 3, 4], dropout_rate=0)  # fmt: skip
    ours = ElasticSupernet(get_space(f"ofa-mobilenetv3-w{request.param}"))
    _randomize(ours)
    peer.load_state_dict(ours.state_dict())
    return ours.eval(), peer.eval()


def _activate(peer: Any, space: SearchSpace, tokens_D: Tokens) -> None:
    encoding = space.encode(tokens_D).partition("@")[0]
    depths, kernels, expands = ([int(v) for v in part.split(",")] for part in encoding.split(":"))
    peer.set_active_subnet(ks=[k or 3 for k in kernels], e=[e or 3 for e in expands], d=depths)


def test_sampled_subnets_give_the_peers_outputs(pair: tuple[ElasticSupernet, Any]) -> None:
    ours, peer = pair
    with torch.inference_mode():
        for tokens_D in _tokens(ours.space, 10):
            _activate(peer, ours.space, tokens_D)
            expected = peer(_images())
            assert expected.std() > 0.01
            torch.testing.assert_close(ours(_images(), tokens_D), expected, rtol=1e-5, atol=1e-5)
            active = peer.get_active_subnet().eval()(_images())
            torch.testing.assert_close(subnet(ours, tokens_D)(_images()), active, rtol=1e-5, atol=1e-5)


def test_names_and_shapes_are_the_peers(pair: tuple[ElasticSupernet, Any]) -> None:
    ours, peer = pair
    official = {name.replace(".conv.", ".mobile_inverted_conv.", 1) if name.startswith("blocks.") else name: t.shape
                for name, t in peer.state_dict().items()}  # fmt: skip
    assert {name: tensor.shape for name, tensor in ours.state_dict().items()} == official


def test_training_gives_the_peers_gradients_and_statistics(pair: tuple[ElasticSupernet, Any]) -> None:
    ours, peer = pair
    tokens_D = _tokens(ours.space, 1)[-1]
    _activate(peer, ours.space, tokens_D)
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    images = _images(4).double()  # in float32 the gradients of so small a batch differ in the third digit
    for logits in (ours.double().train()(images, tokens_D), peer.double().train()(images)):
        logits.square().mean().backward()
    theirs = {name.replace(".conv.", ".mobile_inverted_conv.", 1) if name.startswith("blocks.") else name: p
              for name, p in peer.named_parameters()}  # fmt: skip
    for name, parameter in ours.named_parameters():
        expected = theirs[name].grad
        assert (parameter.grad is None) == (expected is None), name
        if parameter.grad is not None and expected is not None:
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-5, atol=1e-8, msg=f"the gradient of {name}")
    after = {name: tensor for name, tensor in ours.state_dict().items() if name.endswith("running_mean")}
    assert any(not torch.equal(tensor.float(), before[name]) for name, tensor in after.items())
    for network in (ours, peer):
        network.float().eval().zero_grad()
        network.load_state_dict(before)


@pytest.fixture(scope="module")
def supernet() -> ElasticSupernet:
    ours = ElasticSupernet(get_space("ofa-mobilenetv3-w1.0"))
    _randomize(ours)
    return ours.eval()


def test_a_subnet_equals_a_plain_network_that_holds_its_slice(supernet: ElasticSupernet) -> None:
    with torch.inference_mode():
        for tokens_D in _tokens(supernet.space, 5):
            plain = subnet(supernet, tokens_D)
            torch.testing.assert_close(plain(_images()), supernet(_images(), tokens_D), rtol=0, atol=0)
            assert sum(p.numel() for p in plain.parameters()) == sum(layer.params for layer in plain.layers)


def test_a_subnet_holds_a_copy(supernet: ElasticSupernet) -> None:
    tokens_D = _tokens(supernet.space, 1)[-1]
    plain, before = subnet(supernet, tokens_D), supernet.state_dict()["first_conv.conv.weight"].clone()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.zero_()
    torch.testing.assert_close(supernet.state_dict()["first_conv.conv.weight"], before, rtol=0, atol=0)


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize("spelling", ["mobile_inverted_conv", "conv"])
def test_checkpoints_load_however_they_are_spelled(
    supernet: ElasticSupernet, tmp_path: Path, wrapper: str | None, spelling: str
) -> None:
    state = {name.replace("mobile_inverted_conv", spelling): t for name, t in supernet.state_dict().items()}
    torch.save(state if wrapper is None else {wrapper: state, "epoch": 3}, tmp_path / "official")
    fresh = ElasticSupernet(supernet.space)
    fresh.load_weights(tmp_path / "official")
    assert all(torch.equal(tensor, supernet.state_dict()[name]) for name, tensor in fresh.state_dict().items())


def _altered(supernet: ElasticSupernet, tmp_path: Path, **changes: torch.Tensor | None) -> Path:
    state = {**supernet.state_dict(), **changes}
    torch.save({n: t for n, t in state.items() if t is not None}, tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


def test_a_checkpoint_that_does_not_fit_is_told_by_name(supernet: ElasticSupernet, tmp_path: Path) -> None:
    wide = ElasticSupernet(get_space("ofa-mobilenetv3-w1.2"))
    with pytest.raises(WeightsError, match=r"weights of width 1\.2; ofa-mobilenetv3-w1\.0 needs 1\.0: name space"):
        supernet.load_weights(_altered(wide, tmp_path))
    with pytest.raises(WeightsError, match=r"classifier\.linear\.bias is missing; extra\.one is unknown"):
        supernet.load_weights(
            _altered(supernet, tmp_path, **{"classifier.linear.bias": None, "extra.one": torch.ones(1)})
        )
    with pytest.raises(WeightsError, match=r"classifier\.linear\.bias has shape \[10\], not \[1000\]"):
        supernet.load_weights(_altered(supernet, tmp_path, **{"classifier.linear.bias": torch.ones(10)}))


def test_a_file_that_is_no_checkpoint_is_refused_and_never_executed(tmp_path: Path) -> None:
    (tmp_path / "broken").write_bytes(b"nothing like it")
    with pytest.raises(WeightsError, match="broken: not a checkpoint of tensors alone"):
        read_state_dict(tmp_path / "broken")
    torch.save({"state_dict": nn.Linear(2, 2)}, tmp_path / "code")
    with pytest.raises(WeightsError, match="code: not a checkpoint of tensors alone"):
        read_state_dict(tmp_path / "code")
    torch.save([torch.ones(2)], tmp_path / "list")
    with pytest.raises(WeightsError, match="list: holds no state dict"):
        read_state_dict(tmp_path / "list")


def test_another_space_has_no_elastic_supernet() -> None:
    with pytest.raises(WeightsError, match="nas-bench-macro has no elastic supernet"):
        ElasticSupernet(get_space("nas-bench-macro"))
