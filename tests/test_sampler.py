"""The order of training: one permutation per epoch, the same for any number of processes, from any step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketnet_fast.data.sampler import EpochSampler, Sample
from pocketnet_fast.errors import PocketNetError


def batches(sampler: EpochSampler, epoch: int, step: int = 0) -> list[list[Sample]]:
    sampler.set_position(epoch, step)
    return list(sampler)


def test_an_epoch_shows_each_image_once() -> None:
    sampler = EpochSampler(103, 10, seed=4)
    assert sampler.steps_per_epoch == len(sampler) == 10
    shown = [sample for batch in batches(sampler, 2) for sample in batch]
    assert all(epoch == 2 for epoch, _ in shown)
    indices = [index for _, index in shown]
    assert len(set(indices)) == 100
    assert set(indices) <= set(range(103))
    assert indices != sorted(indices)


def test_seed_and_epoch_decide() -> None:
    first = batches(EpochSampler(50, 5, seed=1), 3)
    assert batches(EpochSampler(50, 5, seed=1), 3) == first
    indices = [[index for _, index in batch] for batch in first]
    for other in (EpochSampler(50, 5, seed=2), EpochSampler(50, 5, seed=1)):
        epoch = 3 if other.seed == 2 else 4
        assert [[index for _, index in batch] for batch in batches(other, epoch)] != indices


def test_left_out_images_change_with_the_epoch() -> None:
    sampler = EpochSampler(12, 5, seed=0)
    left_out = set()
    for epoch in range(20):
        shown = {index for batch in batches(sampler, epoch) for _, index in batch}
        left_out |= set(range(12)) - shown
    assert left_out == set(range(12))


@settings(max_examples=100, deadline=None)
@given(
    ranks=st.integers(1, 5),
    batch_size=st.integers(1, 7),
    steps=st.integers(1, 4),
    rest=st.integers(0, 6),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 30),
)
def test_ranks_together_are_one_process(
    ranks: int, batch_size: int, steps: int, rest: int, seed: int, epoch: int
) -> None:
    length = ranks * batch_size * steps + min(rest, ranks * batch_size - 1)
    alone = batches(EpochSampler(length, ranks * batch_size, seed), epoch)
    parts = [batches(EpochSampler(length, batch_size, seed, rank, ranks), epoch) for rank in range(ranks)]
    assert len(alone) == steps
    for step in range(steps):
        assert [sample for part in parts for sample in part[step]] == alone[step]


def test_entering_in_the_middle() -> None:
    sampler = EpochSampler(40, 4, seed=9, rank=1, ranks=2)
    whole = batches(sampler, 6)
    for step in range(sampler.steps_per_epoch + 1):
        assert batches(sampler, 6, step) == whole[step:]
        assert len(sampler) == len(whole) - step


def test_iterating_moves_nothing() -> None:
    sampler = EpochSampler(40, 4, seed=9)
    sampler.set_position(2, 3)
    iterator = iter(sampler)
    next(iterator)
    assert (sampler.epoch, sampler.step) == (2, 3)
    # An iterator that has begun goes on in its own epoch.
    sampler.set_position(5, 0)
    assert {epoch for batch in iterator for epoch, _ in batch} == {2}


def test_refusals() -> None:
    for arguments in ((10, 0, 0), (10, 2, -1), (10, 2, 0, 2, 2), (10, 2, 0, -1, 2), (10, 2, 0, 0, 0)):
        with pytest.raises(PocketNetError, match="expected a batch size from 1, a rank below"):
            EpochSampler(*arguments)
    with pytest.raises(PocketNetError, match="7 images do not fill one batch of 8; use a smaller batch"):
        EpochSampler(7, 8, 0)
    with pytest.raises(PocketNetError, match="7 images do not fill one batch of 4 on each of 2 processes"):
        EpochSampler(7, 4, 0, 0, 2)
    sampler = EpochSampler(8, 4, 0)
    for epoch, step in ((-1, 0), (0, -1), (0, 3)):
        with pytest.raises(PocketNetError, match="is no place in training: an epoch has 2 steps"):
            sampler.set_position(epoch, step)


def test_large_datasets_stay_quick() -> None:
    """The permutation is made once an epoch, and a batch touches its own part alone."""
    sampler = EpochSampler(3_000_000, 512, seed=0)
    sampler.set_position(0, sampler.steps_per_epoch - 2)
    last = list(sampler)
    assert len(last) == 2
    assert len(np.unique([index for batch in last for _, index in batch])) == 1024
