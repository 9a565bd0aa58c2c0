"""What every source of training images offers; ``data.opening`` opens one."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from pocketnet_fast.data.alignment import CROP_SIZE
from pocketnet_fast.data.images import ImageArray, decode_image, stated_size
from pocketnet_fast.errors import PocketNetError


class FaceDataset(Dataset[tuple[ImageArray, int]], ABC):
    """Aligned face crops with the identity of each, by index.

    Attributes:
        name: How messages call it: the path, or the text that ``open_dataset`` takes.
        labels: int64, one per image, in 0..classes-1.
        classes: Number of identities.
    """

    name: str
    labels: npt.NDArray[np.int64]
    classes: int

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[ImageArray, int]:
        return self.image(index), int(self.labels[index])

    @abstractmethod
    def image(self, index: int) -> ImageArray:
        """Return one crop: 112 x 112 x 3 uint8, RGB, an array of the caller's own.

        Raises:
            PocketNetError: The image is damaged or has another size; the message names it.
        """


def decode_crop(data: bytes, name: str) -> ImageArray:
    """Decode an encoded aligned crop.

    Returns:
        112 x 112 x 3 uint8, RGB.

    Raises:
        PocketNetError: ``decode_image`` refuses it, or it has another size: a crop is not scaled, because
            its eyes and mouth would then not lie where the network expects them.
    """
    # Before decoding, which would take the memory that a few bytes can ask for.
    size = stated_size(data) or (CROP_SIZE, CROP_SIZE)
    if size == (CROP_SIZE, CROP_SIZE):
        crop = decode_image(data, name)
        size = crop.shape[:2]
        if size == (CROP_SIZE, CROP_SIZE):
            return crop
    raise PocketNetError(
        f"{name} has {size[1]}x{size[0]} pixels; expected an aligned crop of {CROP_SIZE}x{CROP_SIZE}"
    )
