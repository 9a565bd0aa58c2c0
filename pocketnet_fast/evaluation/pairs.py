"""Verification pairs, whatever file or folder they come from."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from pocketnet_fast.data.dataset import decode_crop
from pocketnet_fast.data.images import ImageArray
from pocketnet_fast.errors import PocketNetError

PAIRS_NAME: Final = "pairs.csv"


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

    def crops(
        self, on_image: Callable[[], None] = lambda: None, numbers: Iterable[int] | None = None
    ) -> Iterator[ImageArray]:
        """Yield the images one by one, 112 x 112 x 3 uint8, RGB; none is kept.

        Args:
            on_image: Called after each image, for progress.
            numbers: Which images; None for all.

        Raises:
            PocketNetError: If an image is damaged or of another size; the message names it.
        """
        for index in range(len(self.images)) if numbers is None else numbers:
            place = f"{self.name}: image {index}" if self.files is None else self.files[index]
            yield decode_crop(self.images[index], place)
            on_image()


def is_pairs(path: str | os.PathLike[str]) -> bool:
    """Whether a path looks like what ``open_pairs`` takes; nothing is read."""
    path = Path(path)
    return path.suffix in (".bin", ".npz") or (path / PAIRS_NAME).is_file()


def open_pairs(path: str | os.PathLike[str]) -> VerificationPairs:
    """Open verification pairs of any kind; no image is decoded.

    Args:
        path: A ``.bin`` file, an ``.npz`` file that ``write_npz`` wrote, or a folder that holds ``pairs.csv``
            and the images it names.

    Raises:
        PocketNetError: If it is none of these, is damaged, or holds no pair.
    """
    from pocketnet_fast.evaluation.bin_file import read_bin
    from pocketnet_fast.evaluation.pairs_folder import read_pairs_folder
    from pocketnet_fast.evaluation.pairs_npz import read_npz

    path = Path(path)
    if path.is_dir():
        pairs = read_pairs_folder(path)
    elif path.suffix == ".bin":
        pairs = read_bin(path)
    elif path.suffix == ".npz":
        pairs = read_npz(path)
    else:
        problem = "is none of these" if path.exists() else "does not exist"
        raise PocketNetError(
            f"{path} {problem}; expected a .bin file, an .npz file, or a folder with {PAIRS_NAME}"
        )
    if not len(pairs):
        raise PocketNetError(f"{path} holds no pair")
    return pairs


def write_pairs(
    path: str | os.PathLike[str], pairs: VerificationPairs, on_image: Callable[[], None] = lambda: None
) -> None:
    """Write verification pairs as what the path's name says: ``.bin``, ``.npz``, or a folder without suffix.

    Args:
        path: The file, which is replaced, or the folder, which must not exist.
        pairs: What to write; images are copied as they are stored.
        on_image: Called after each image, for progress.

    Raises:
        PocketNetError: If the name is of another kind or the place cannot be written; or what reading the
            images raises.
    """
    from pocketnet_fast.evaluation.bin_file import write_bin
    from pocketnet_fast.evaluation.pairs_folder import write_pairs_folder
    from pocketnet_fast.evaluation.pairs_npz import write_npz

    writers = {".bin": write_bin, ".npz": write_npz, "": write_pairs_folder}
    suffix = Path(path).suffix
    if suffix not in writers:
        raise PocketNetError(
            f"{path}: pairs are written to a .bin file, an .npz file or a folder without suffix"
        )
    writers[suffix](path, pairs, on_image)
