"""The sandwich rule: who is trained, on what, and that it learns."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from pnag.models.space.registry import get_space
from pnag.trainer.supernet.sandwich import distillation_loss, path_losses, sandwich_paths
from pnag.trainer.supernet.weights_file import build_supernet

SPACE = get_space("ofa-mobilenetv3-w1.0")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_paths_are_the_widest_the_narrowest_and_random_ones() -> None:
    paths = sandwich_paths(SPACE, np.random.default_rng(0), num_random=3)
    SPACE.validate(paths)
    macs = [sum(layer.macs for layer in SPACE.layers(SPACE.encode(tokens_D))) for tokens_D in paths]
    widest, narrowest, *others = macs
    assert all(narrowest < cost < widest for cost in others)
    assert len(others) == 3


def test_students_are_taught_and_the_teacher_is_not() -> None:
    student, teacher = (torch.randn(4, 5, requires_grad=True) for _ in range(2))
    loss = distillation_loss(student, teacher)
    by_hand = -(teacher.softmax(1) * student.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss, by_hand)
    loss.backward()
    assert teacher.grad is None
    torch.testing.assert_close(student.grad, (student.softmax(1) - teacher.softmax(1)).detach() / 4)


def test_a_few_steps_teach_all_sizes_on_tiny_data() -> None:
    torch.manual_seed(0)
    supernet = build_supernet(SPACE).train()
    labels_N = torch.arange(8) % 2  # noqa: N806 (the suffix is the shape)
    images_NCHW = torch.randn(8, 3, 32, 32) * 0.1 + labels_N.view(-1, 1, 1, 1).float()  # noqa: N806
    optimizer = torch.optim.SGD(supernet.parameters(), lr=0.05, momentum=0.9)
    history = []
    for step in range(8):
        optimizer.zero_grad()
        paths = sandwich_paths(SPACE, np.random.default_rng(step), num_random=1)
        losses = []
        for loss, logits in path_losses(supernet, images_NCHW, labels_N, paths, first_teaches=True):
            assert logits.shape == (8, 1000)
            loss.backward()
            losses.append(torch.nn.functional.cross_entropy(logits, labels_N).item())
        optimizer.step()
        history.append(losses)
    assert all(last < 0.5 * first for first, last in zip(history[0], history[-1], strict=True))
