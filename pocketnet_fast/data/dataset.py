"""What every source of training images offers, and the one way to open one."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from pocketnet_fast.data.alignment import CROP_SIZE
from pocketnet_fast.data.images import ImageArray, decode_image, stated_size
from pocketnet_fast.errors import PocketNetError

_SYNTHETIC = "synthetic"
_DIGITS = 30
_SYNTHETIC_KEYS = ("identities", "images", "seed", "first_identity")


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
            PocketNetError: If the image is damaged or has another size; the message names it.
        """


def decode_crop(data: bytes, name: str) -> ImageArray:
    """Decode an encoded aligned crop.

    Returns:
        112 x 112 x 3 uint8, RGB.

    Raises:
        PocketNetError: If ``decode_image`` refuses it, or it has another size: a crop is not scaled, because
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


def open_dataset(source: str | os.PathLike[str]) -> FaceDataset:
    """Open a dataset by its path or description.

    Args:
        source: A ``.rec`` file; a folder that holds ``train.rec``; a folder of one folder per identity; a
            mixture of datasets (``.toml``, see ``data.mixture``); an archive of CIFAR-10 (``.tar.gz``); or
            ``synthetic:identities=64,images=20,seed=0,first_identity=0``, where every key may be left out.

    Raises:
        PocketNetError: If it is none of these, or the dataset cannot be used.
    """
    from pocketnet_fast.data.cifar import CifarDataset
    from pocketnet_fast.data.folder import FolderDataset
    from pocketnet_fast.data.mixture import MixtureDataset
    from pocketnet_fast.data.records import RECORDS_NAME, RecordDataset
    from pocketnet_fast.data.synthetic import SyntheticDataset

    text = os.fspath(source)
    if text == _SYNTHETIC or text.startswith(f"{_SYNTHETIC}:"):
        return SyntheticDataset(**_synthetic_options(text))
    path = Path(source)
    if path.suffix == ".rec" or (path / RECORDS_NAME).is_file():
        return RecordDataset(path)
    if path.name.endswith((".tar.gz", ".tgz")):
        return CifarDataset(path)
    if path.suffix == ".toml":
        return MixtureDataset(path)
    if path.is_dir():
        return FolderDataset(path)
    problem = "is neither a .rec file nor a folder" if path.exists() else "does not exist"
    raise PocketNetError(
        f"{path} {problem}; expected a .rec file, a folder with {RECORDS_NAME}, a folder of one folder per "
        f"identity, a mixture (.toml), an archive of CIFAR-10, or "
        f"synthetic:{','.join(f'{key}=N' for key in _SYNTHETIC_KEYS)}"
    )


def _synthetic_options(text: str) -> dict[str, int]:
    options: dict[str, int] = {}
    for item in text.partition(":")[2].split(","):
        if not item:
            continue
        key, _, value = item.partition("=")
        if key not in _SYNTHETIC_KEYS or not value.isdecimal() or len(value) > _DIGITS:
            raise PocketNetError(
                f"{text}: {item!r} is no option; expected KEY=N with KEY one of {', '.join(_SYNTHETIC_KEYS)}"
            )
        if key in options:
            raise PocketNetError(f"{text}: {key} stands twice")
        options[key] = int(value)
    return options
