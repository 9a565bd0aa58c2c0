"""The class centres, divided among processes, as one matrix: how they start, are saved and are read."""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from pocketnet_fast.losses import ShardedMargin, shard_range
from pocketnet_fast.resumable.distributed import Processes

_BLOCK = 4096
_STD = 0.01


@torch.no_grad()
def initialize(head: ShardedMargin, seed: int) -> None:
    """Draw the centres, normally distributed with deviation 0.01.

    A class's centre depends on the seed and the class alone: however many processes divide the classes,
    together they hold the same matrix.
    """
    dims, held = head.kernel.shape
    for block in range(head.first // _BLOCK, (head.first + held - 1) // _BLOCK + 1):
        # PyTorch's generator takes the lower 32 bits of a seed alone, so that they must hold both numbers.
        state = np.random.SeedSequence(seed, spawn_key=(block,)).generate_state(1)
        generator = torch.Generator().manual_seed(int(state[0]))
        drawn = torch.empty(dims, _BLOCK).normal_(0.0, _STD, generator=generator)
        start = block * _BLOCK
        low, high = max(start, head.first), min(start + _BLOCK, head.first + held)
        head.kernel[:, low - head.first : high - head.first] = drawn[:, low - start : high - start]


def gather_columns(local: Tensor, classes: int, processes: Processes) -> Tensor | None:
    """All classes' columns, on the CPU of the first process; None on the others.

    Args:
        local: D x (this process's classes).
        classes: The number of classes of all processes.
        processes: All of which call this.
    """
    if not processes.first:
        dist.send(local.detach().contiguous(), 0)
        return None
    whole = torch.empty(local.shape[0], classes, dtype=local.dtype)
    whole[:, : local.shape[1]] = local.detach().cpu()
    for rank in range(1, processes.ranks):
        first, end = shard_range(classes, rank, processes.ranks)
        part = torch.empty(local.shape[0], end - first, dtype=local.dtype, device=local.device)
        dist.recv(part, rank)
        whole[:, first:end] = part.cpu()
    return whole
