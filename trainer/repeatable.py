"""One thread per computation: sums come out in one order, so that the same seed gives the same bits on any machine."""

import torch


def use_one_thread(seed: int | None = None) -> None:
    """Keep torch on one thread, at these sizes also the quickest, and seed it if asked."""
    torch.set_num_threads(1)
    if seed is not None:
        torch.manual_seed(seed)
