"""The sandwich rule with in-place distillation (arXiv 1903.05134), for elastic supernets.

Each step trains the widest network on the labels, and the narrowest and some random ones on what the widest said.

Axis letters: N = images, C = channels, H, W = rows and columns, K = classes, P = paths of a step, D = decisions.
"""

from collections.abc import Callable, Iterator

import numpy as np
from torch import Tensor, nn

from pnag.models.space.search_space import SearchSpace, Tokens


def sandwich_paths(space: SearchSpace, rng: np.random.Generator, num_random: int = 2) -> Tokens:
    """The widest, the narrowest and some random architectures, in this order; shape [2 + num_random, D].

    Options of an elastic space rise: the last one of each decision is the widest.
    """
    ends_2D = space.canonical(np.stack([space.num_options_D - 1, np.zeros_like(space.num_options_D)]))
    return np.concatenate([ends_2D, space.sample(num_random, rng)])


def distillation_loss(logits_NK: Tensor, teacher_NK: Tensor) -> Tensor:  # noqa: N803 (the suffix is the shape)
    """Cross-entropy with the teacher's probabilities in place of labels; no gradient reaches the teacher. Scalar."""
    return nn.functional.cross_entropy(logits_NK, teacher_NK.detach().softmax(1))


def path_losses(
    supernet: Callable[[Tensor, Tokens], Tensor],
    inputs_NCHW: Tensor,  # noqa: N803
    labels_N: Tensor,  # noqa: N803
    paths_PD: Tokens,  # noqa: N803
    label_smoothing: float = 0.0,
    *,
    first_teaches: bool,
) -> Iterator[tuple[Tensor, Tensor]]:
    """(loss, logits) of each path: on the labels, or, after the first, on what the first said if it teaches.

    One at a time: call `backward` on each before the next is asked for, and only one network's activations are alive.
    Gradients add up over the paths.
    """
    teacher_NK: Tensor | None = None
    for tokens_D in paths_PD:
        logits_NK = supernet(inputs_NCHW, tokens_D)
        if teacher_NK is None:
            loss = nn.functional.cross_entropy(logits_NK, labels_N, label_smoothing=label_smoothing)
            teacher_NK = logits_NK.detach() if first_teaches else None
        else:
            loss = distillation_loss(logits_NK, teacher_NK)
        yield loss, logits_NK
