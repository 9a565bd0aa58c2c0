"""Class centres that are the same matrix however many processes hold them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pocketnet_fast.losses import ShardedMargin, shard_range
from pocketnet_fast.training.sharding import initialize

DIMS, CLASSES = 3, 9001


def held(rank: int, ranks: int, seed: int = 5) -> Tensor:
    first, end = shard_range(CLASSES, rank, ranks)
    head = ShardedMargin(DIMS, end - first)
    head.first = first
    initialize(head, seed)
    return head.kernel.detach()


@pytest.mark.parametrize("ranks", [2, 3, 7])
def test_however_divided(ranks: int) -> None:
    """Slices begin and end inside, on, and across the blocks in which the centres are drawn."""
    whole = held(0, 1)
    assert torch.equal(torch.cat([held(rank, ranks) for rank in range(ranks)], 1), whole)


def test_distribution() -> None:
    whole = held(0, 1)
    assert float(whole.std()) == pytest.approx(0.01, rel=0.02)
    assert abs(float(whole.mean())) < 5e-4
    assert not torch.equal(whole, held(0, 1, seed=6))
    # No class repeats another, within a block or from block to block.
    assert len(whole.unique(dim=1)[0]) == CLASSES
