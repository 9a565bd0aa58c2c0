"""Verification pairs, whatever file or folder they come from; ``pair_files`` reads and writes them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, overload

import numpy as np
import numpy.typing as npt

from pocketnet_fast.data.dataset import decode_crop
from pocketnet_fast.data.images import ImageArray

PAIRS_NAME: Final = "pairs.csv"


class EncodedImages(Sequence[bytes]):
    """Encoded images that are read when they are asked for."""

    @abstractmethod
    def image(self, index: int) -> bytes:
        """Read one, by its number from 0."""

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        places = range(len(self))[index]
        return self.image(places) if isinstance(places, int) else [self.image(place) for place in places]

    def __iter__(self) -> Iterator[bytes]:
        return (self.image(index) for index in range(len(self)))


@dataclass(frozen=True)
class VerificationPairs:
    """Pairs of faces and whether each shows one person.

    Attributes:
        images: Encoded images, 2N: pair i is images 2i and 2i + 1. They may be read when they are asked for.
        same: bool, N.
        name: How messages call the whole.
        files: The file of each image, where each has one.
    """

    images: Sequence[bytes]
    same: npt.NDArray[np.bool_]
    name: str = "pairs"
    files: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.same)

    def encoded(self, on_image: Callable[[], None] = lambda: None) -> list[bytes]:
        """Read all images as they are stored; ``on_image`` is called after each, for progress."""
        images = []
        for image in self.images:
            images.append(image)
            on_image()
        return images

    def crops(
        self, on_image: Callable[[], None] = lambda: None, numbers: Iterable[int] | None = None
    ) -> Iterator[ImageArray]:
        """Yield the images one by one, 112 x 112 x 3 uint8, RGB; none is kept.

        Args:
            on_image: Called after each image, for progress.
            numbers: Which images; None for all.

        Raises:
            PocketNetError: An image is damaged or of another size; the message names it.
        """
        for index in range(len(self.images)) if numbers is None else numbers:
            place = f"{self.name}: image {index}" if self.files is None else self.files[index]
            yield decode_crop(self.images[index], place)
            on_image()
