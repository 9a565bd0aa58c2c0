"""The one way to open a source of training images, of whatever kind it is."""

from __future__ import annotations

import os
from pathlib import Path

from pocketnet_fast.data.cifar import CifarDataset
from pocketnet_fast.data.dataset import FaceDataset
from pocketnet_fast.data.folder import FolderDataset
from pocketnet_fast.data.mixture import MixtureDataset
from pocketnet_fast.data.records import RECORDS_NAME, RecordDataset
from pocketnet_fast.data.synthetic import SyntheticDataset
from pocketnet_fast.errors import PocketNetError

_SYNTHETIC = "synthetic"
_DIGITS = 30
_SYNTHETIC_KEYS = ("identities", "images", "seed", "first_identity")


def open_dataset(source: str | os.PathLike[str]) -> FaceDataset:
    """Open a dataset by its path or description.

    Args:
        source: A ``.rec`` file; a folder that holds ``train.rec``; a folder of one folder per identity; a
            mixture of datasets (``.toml``, see ``data.mixture``); an archive of CIFAR-10 (``.tar.gz``); or
            ``synthetic:identities=64,images=20,seed=0,first_identity=0``, where every key may be left out.

    Raises:
        PocketNetError: It is none of these, or the dataset cannot be used.

    Examples:
        >>> faces = open_dataset("synthetic:identities=3,images=2")
        >>> len(faces), faces.classes
        (6, 3)
    """
    text = os.fspath(source)
    if text == _SYNTHETIC or text.startswith(f"{_SYNTHETIC}:"):
        return SyntheticDataset(**_synthetic_options(text))
    path = Path(source)
    try:
        exists, is_folder, has_records = path.exists(), path.is_dir(), (path / RECORDS_NAME).is_file()
    except OSError as error:  # as of a name that is too long
        raise PocketNetError(f"{path}: {error.strerror}") from None
    if path.suffix == ".rec" or has_records:
        return RecordDataset(path)
    if path.name.endswith((".tar.gz", ".tgz")):
        return CifarDataset(path)
    if path.suffix == ".toml":
        return MixtureDataset(path, open_dataset)
    if is_folder:
        return FolderDataset(path)
    problem = "is neither a .rec file nor a folder" if exists else "does not exist"
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
