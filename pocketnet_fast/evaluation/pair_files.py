"""Reading and writing verification pairs, by what a path's name says."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.evaluation.bin_file import read_bin, write_bin
from pocketnet_fast.evaluation.pairs import PAIRS_NAME, VerificationPairs
from pocketnet_fast.evaluation.pairs_folder import read_pairs_folder, write_pairs_folder
from pocketnet_fast.evaluation.pairs_npz import read_npz, write_npz


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
        PocketNetError: It is none of these, is damaged, or holds no pair.

    Examples:
        >>> pairs = open_pairs("lfw.bin")
        >>> len(pairs), len(pairs.images)
        (6000, 12000)
    """
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
        PocketNetError: The name is of another kind or the place cannot be written; or what reading the
            images raises.

    Examples:
        >>> write_pairs("lfw.npz", open_pairs("lfw.bin"))
    """
    writers = {".bin": write_bin, ".npz": write_npz, "": write_pairs_folder}
    suffix = Path(path).suffix
    if suffix not in writers:
        raise PocketNetError(
            f"{path}: pairs are written to a .bin file, an .npz file or a folder without suffix"
        )
    writers[suffix](path, pairs, on_image)
