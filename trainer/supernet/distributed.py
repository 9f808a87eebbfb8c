"""Several processes that train one network, as `torchrun` starts them; one process needs nothing of this."""

import os

import torch
from torch import distributed, nn


class Group:
    """The processes of a run; a group of one sends nothing.

    Attributes:
        rank, size: this process's number, from 0, and how many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @classmethod
    def join(cls) -> "Group":
        """The group that torchrun's environment variables describe; gloo, or nccl where there is a GPU."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        if not distributed.is_initialized():
            distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        return cls(distributed.get_rank(), size)

    @property
    def is_first(self) -> bool:
        """The process that writes files."""
        return self.rank == 0

    def from_first(self, *numbers: float) -> list[float]:
        """The first process's numbers, for all: clocks and signals differ between processes, decisions must not."""
        if self.size == 1:
            return list(numbers)
        shared = torch.tensor(numbers, dtype=torch.float64)
        distributed.broadcast(shared, 0)
        return [float(number) for number in shared]

    def average_gradients(self, module: nn.Module) -> None:
        """Replace each gradient by its mean over processes; all must have the same ones."""
        if self.size == 1:
            return
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        distributed.all_reduce(flat)
        flat /= self.size
        for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))
