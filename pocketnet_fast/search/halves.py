"""Half of the data for the weights and half for the alphas, every class in both."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pocketnet_fast.data.dataset import FaceDataset
from pocketnet_fast.data.images import ImageArray
from pocketnet_fast.errors import PocketNetError

Indices = npt.NDArray[np.int64]


class Subset(FaceDataset):
    """Some images of a dataset, with its classes.

    Args:
        dataset: The whole.
        indices: The places of its images, in the order of the subset.
        name: How messages call it.
    """

    def __init__(self, dataset: FaceDataset, indices: Indices, name: str) -> None:
        self.name, self.classes = name, dataset.classes
        self.labels = dataset.labels[indices]
        self._dataset, self._indices = dataset, indices

    def image(self, index: int) -> ImageArray:
        """Return one crop: 112 x 112 x 3 uint8, RGB.

        Raises:
            PocketNetError: As the whole dataset does.
        """
        return self._dataset.image(int(self._indices[index]))


def stratified_halves(dataset: FaceDataset, seed: int) -> tuple[Subset, Subset]:
    """Divide a dataset so that each half has half of every class, by chance which.

    The odd images of classes go to either half in turn, so that the halves' sizes differ by at most one.

    Raises:
        PocketNetError: A class has a single image, which only one half could have.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(3,)))
    order = rng.permutation(len(dataset))
    # Sorted by class, each class in random order, and dealt in turn.
    dealt = order[np.argsort(dataset.labels[order], kind="stable")]
    counts = np.bincount(dataset.labels, minlength=dataset.classes)
    if counts.min() < 2:
        lone = int(np.argmin(counts))
        raise PocketNetError(
            f"{dataset.name}: class {lone} has {counts[lone]} image, and a search needs at least two of each "
            "class: one for the weights and one for the alphas"
        )
    halves = (np.sort(dealt[0::2]), np.sort(dealt[1::2]))
    return (
        Subset(dataset, halves[0], f"{dataset.name} (half for the weights)"),
        Subset(dataset, halves[1], f"{dataset.name} (half for the alphas)"),
    )
