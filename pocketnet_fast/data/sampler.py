"""Which images a training step sees: one permutation per epoch, divided among processes, entered anywhere."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from pocketnet_fast.errors import PocketNetError

Sample = tuple[int, int]  # epoch, index: what the augmentation of an image depends on


class EpochSampler(Sampler[list[Sample]]):
    """Yields the batches of one process, from any step of any epoch on.

    The permutation of an epoch depends on the seed and the epoch alone. Step t takes the images
    ``[t * G, (t + 1) * G)`` of it, where G = ranks * batch_size, and rank r the r-th part of those: what the
    ranks see together at step t is what a single process with batch size G sees, in the same order. The rest
    of an epoch that fills no whole step is left out.

    Iterating begins where ``set_position`` said and ends with the epoch; it does not move the position, which
    a loader's prefetching would run ahead of training.

    Args:
        length: Images in the dataset.
        batch_size: Images of one process and step.
        seed: The seed of the permutations.
        rank: The rank of this process.
        ranks: Number of processes.

    Attributes:
        steps_per_epoch: Steps of a whole epoch, the same on every rank.

    Raises:
        PocketNetError: The dataset does not fill one step, or an argument is out of range.
    """

    def __init__(self, length: int, batch_size: int, seed: int, rank: int = 0, ranks: int = 1) -> None:
        if batch_size < 1 or ranks < 1 or not 0 <= rank < ranks or seed < 0:
            raise PocketNetError(
                f"batch size {batch_size}, rank {rank} of {ranks}, seed {seed}: expected a batch size from "
                "1, a rank below the number of ranks, and a seed from 0"
            )
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.ranks = rank, ranks
        self.steps_per_epoch = length // (batch_size * ranks)
        if self.steps_per_epoch == 0:
            processes = f" on each of {ranks} processes" if ranks > 1 else ""
            raise PocketNetError(
                f"{length} images do not fill one batch of {batch_size}{processes}; "
                "use a smaller batch or more images"
            )
        self.epoch, self.step = 0, 0

    def set_position(self, epoch: int, step: int = 0) -> None:
        """Let the next iteration begin at this step of this epoch, both counted from 0.

        Raises:
            PocketNetError: There is no such place; ``steps_per_epoch`` is the end of the epoch and one.
        """
        if epoch < 0 or not 0 <= step <= self.steps_per_epoch:
            raise PocketNetError(
                f"epoch {epoch}, step {step} is no place in training: an epoch has {self.steps_per_epoch} "
                "steps, counted from 0"
            )
        self.epoch, self.step = epoch, step

    def __len__(self) -> int:
        """Return the number of batches from the position to the end of the epoch."""
        return self.steps_per_epoch - self.step

    def __iter__(self) -> Iterator[list[Sample]]:
        epoch, first = self.epoch, self.step
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(epoch,)))
        order = rng.permutation(self.length)
        for step in range(first, self.steps_per_epoch):
            begin = (step * self.ranks + self.rank) * self.batch_size
            yield [(epoch, int(index)) for index in order[begin : begin + self.batch_size]]
