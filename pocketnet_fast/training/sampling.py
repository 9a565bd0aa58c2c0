"""Faces of a dataset as they are, for what is measured before training begins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import torch
from torch import Tensor

from pocketnet_fast.data.dataset import FaceDataset

_BATCH: Final = 32


def sampled_faces(dataset: FaceDataset, count: int) -> Iterator[Tensor]:
    """Evenly spaced images of a dataset without augmentation, in batches.

    Args:
        dataset: Where they come from.
        count: How many at most.

    Yields:
        uint8 N,112,112,3, RGB, N at most 32.
    """
    places = np.unique(np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(np.int64))
    for start in range(0, len(places), _BATCH):
        images = [dataset.image(int(place)) for place in places[start : start + _BATCH]]
        yield torch.from_numpy(np.stack(images))
