"""Batches of augmented images, made in this process or in workers, the same either way."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pocketnet_fast.data.alignment import CROP_SIZE
from pocketnet_fast.data.augment import Augmentation
from pocketnet_fast.data.dataset import FaceDataset
from pocketnet_fast.data.images import ImageArray
from pocketnet_fast.data.sampler import EpochSampler, Sample
from pocketnet_fast.errors import PocketNetError

Batch = tuple[Tensor, Tensor]
Labels = npt.NDArray[np.int64]


class FaceLoader:
    """Iterating yields the rest of the sampler's epoch, batch by batch: see ``make_loader``.

    Attributes:
        dataset: Where the images come from.
        sampler: Which images; ``sampler.set_position(epoch, step)`` says where the next iteration begins.
    """

    def __init__(
        self,
        dataset: FaceDataset,
        augmentation: Augmentation,
        sampler: EpochSampler,
        *,
        workers: int,
        pin_memory: bool,
    ) -> None:
        self.dataset, self.sampler, self._pin_memory = dataset, sampler, pin_memory
        self._loader: DataLoader[Any] = DataLoader(
            _AugmentedBatches(dataset, augmentation, sampler.seed),
            batch_sampler=sampler,
            num_workers=workers,
            collate_fn=_as_it_is,
            worker_init_fn=_prepare_worker,
            # Of its own, so that drawing the workers' seeds, which nothing uses, leaves the global one alone.
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        """Return the number of batches from the sampler's position to the end of the epoch."""
        return len(self.sampler)

    def __iter__(self) -> Generator[Batch, None, None]:
        """Yield batches; closing the generator ends the workers.

        They ignore the signal by which Python ends the processes that are left when it exits, and wait for
        it, if an exception keeps the iterator alive until then.
        """
        batches = iter(self._loader)
        try:
            for batch in batches:
                if isinstance(batch, PocketNetError):
                    raise batch
                pixels, labels = map(torch.from_numpy, batch)
                yield (pixels.pin_memory(), labels.pin_memory()) if self._pin_memory else (pixels, labels)
        finally:
            # Its destructor ends them.
            del batches


def make_loader(
    dataset: FaceDataset,
    *,
    batch_size: int,
    augmentation: Augmentation,
    seed: int,
    rank: int = 0,
    ranks: int = 1,
    workers: int = 0,
    sampler: EpochSampler | None = None,
    pin_memory: bool = False,
) -> FaceLoader:
    """Load batches of (pixels uint8 N x 112 x 112 x 3 RGB, labels int64 N).

    The images of a step depend on the seed, the epoch, the step and the number of images of all ranks
    together; the augmentation of one depends on the seed, the epoch and its index alone. So neither the
    number of workers nor that of processes changes what is trained on, and an epoch can be entered anywhere.

    Args:
        dataset: The images.
        batch_size: Images per step of this process.
        augmentation: Changes to them.
        seed: The seed of the order and of the augmentation, from 0.
        rank: The rank of this process.
        ranks: Number of processes.
        workers: Processes that decode; 0 for this process itself. They use one thread each, ignore SIGINT and
            SIGTERM (which this process handles), and end with the iteration or with this process, however it
            ends.
        sampler: Instead of the one that the arguments make; it must be for this dataset and these arguments.
        pin_memory: Put batches into page-locked memory, for copies to a GPU.

    Raises:
        PocketNetError: The dataset does not fill one step, an argument is out of range, or the sampler is
            for something else. While iterating: if an image cannot be read, with its name, be it in a worker.
    """
    if workers < 0:
        raise PocketNetError(f"{workers} workers: expected a number from 0")
    if sampler is None:
        sampler = EpochSampler(len(dataset), batch_size, seed, rank, ranks)
    asked = (len(dataset), batch_size, seed, rank, ranks)
    given = (sampler.length, sampler.batch_size, sampler.seed, sampler.rank, sampler.ranks)
    if given != asked:
        raise PocketNetError(
            f"the sampler's images, batch size, seed, rank and ranks are {given}, and the loader's {asked}"
        )
    return FaceLoader(dataset, augmentation, sampler, workers=workers, pin_memory=pin_memory)


class _AugmentedBatches(Dataset[Any]):
    """Batches as arrays: a worker writes them to its pipe and is done with them.

    Tensors would go through shared memory, of which containers often have little, and by a second connection
    that the receiver opens, whose failure when that is interrupted the worker reports with a traceback.
    """

    def __init__(self, dataset: FaceDataset, augmentation: Augmentation, seed: int) -> None:
        self.dataset, self.augmentation, self.seed = dataset, augmentation, seed

    def __getitems__(self, samples: list[Sample]) -> tuple[ImageArray, Labels] | PocketNetError:
        """Return a batch, or why there is none: raised in a worker, it would come with a traceback's text."""
        pixels = np.empty((len(samples), CROP_SIZE, CROP_SIZE, 3), np.uint8)
        try:
            for position, (epoch, index) in enumerate(samples):
                rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(epoch, index)))
                pixels[position] = self.augmentation(self.dataset.image(index), rng)
        except PocketNetError as error:
            return error.with_traceback(None)
        return pixels, self.dataset.labels[[index for _, index in samples]]


def _as_it_is(batch: Any) -> Any:
    return batch


def _prepare_worker(_: int) -> None:
    import cv2

    # One worker is one thread; the keyboard's interrupt and a job scheduler's request to end reach the whole
    # group of processes, and whether training ends at once or after a step is for the main process to say.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_main_process, daemon=True).start()


def _end_with_the_main_process() -> None:
    # A worker that waits to hand over a batch notices nothing: others hold the pipe's reading end. The parent
    # is another process (a fork server) than the main one, depending on how workers are started.
    main = multiprocessing.parent_process()
    started_by = os.getppid()
    while main is not None and main.is_alive() and os.getppid() == started_by:
        main.join(1)
    os._exit(1)
