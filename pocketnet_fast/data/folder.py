"""A folder of one folder per identity as a dataset of face crops."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import numpy as np

from pocketnet_fast.data.dataset import FaceDataset, decode_crop
from pocketnet_fast.data.images import ImageArray, read_bytes
from pocketnet_fast.errors import PocketNetError

IMAGE_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".pgm", ".ppm")
"""Suffixes of the kinds of images that are read, in lower case."""


class FolderDataset(FaceDataset):
    """The images of a folder that holds a folder for every identity.

    Identities are numbered in the order of their folders' names, images follow each other by name. Names that
    start with a dot, files beside the identities' folders, and files in them that are no images by their
    suffix (``IMAGE_SUFFIXES``) are passed over.

    Args:
        path: The folder.

    Attributes:
        identities: The folders' names by class.
        files: The file of each image.

    Raises:
        PocketNetError: It is no folder, cannot be read, has no folders, or one of them has no image.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = str(path)
        self.identities: list[str] = _names(path, folders=True)
        if not self.identities:
            raise PocketNetError(f"{path} holds no folders; expected one for every identity")
        self.files: list[Path] = []
        labels: list[int] = []
        for label, identity in enumerate(self.identities):
            folder = Path(path, identity)
            images = [name for name in _names(folder, folders=False) if name.lower().endswith(IMAGE_SUFFIXES)]
            if not images:
                raise PocketNetError(f"{folder} holds no image; expected files {', '.join(IMAGE_SUFFIXES)}")
            self.files += [folder / name for name in images]
            labels += [label] * len(images)
        self.labels = np.array(labels, np.int64)
        self.classes = len(self.identities)

    def image(self, index: int) -> ImageArray:
        """Read and decode one crop: 112 x 112 x 3 uint8, RGB.

        Raises:
            PocketNetError: The file cannot be read, is damaged, or the image has another size.
        """
        return decode_crop(self.encoded(index), str(self.files[index]))

    def encoded(self, index: int) -> bytes:
        """Read an image as it is stored.

        Raises:
            PocketNetError: The file cannot be read.
        """
        return read_bytes(self.files[index])


def _names(folder: str | os.PathLike[str], *, folders: bool) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(
                entry.name
                for entry in entries
                if entry.is_dir() == folders and not entry.name.startswith(".")
            )
    except NotADirectoryError as error:
        raise PocketNetError(f"{folder} is no folder") from error
    except OSError as error:
        raise PocketNetError(f"{folder} cannot be read: {error.strerror}") from error
