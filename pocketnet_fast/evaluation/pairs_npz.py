"""Verification pairs as an ``.npz`` file: plain arrays, no pickle.

``images`` holds all encoded images end to end as uint8, ``offsets`` (int64, 2N + 1) where each starts and the
last ends, ``same`` (bool, N) whether a pair shows one person.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.evaluation.pairs import EncodedImages, VerificationPairs
from pocketnet_fast.files import atomic_write

_ARRAYS: Final = {"images": np.uint8, "offsets": np.int64, "same": np.bool_}
_MAX_RATIO: Final = 100  # Encoded images hardly shrink again; a file that unpacks to so much more is a bomb.


class _Slices(EncodedImages):
    """The images in one buffer."""

    def __init__(self, data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> None:
        self._data = data
        self._offsets = offsets

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def image(self, index: int) -> bytes:
        return self._data[self._offsets[index] : self._offsets[index + 1]].tobytes()


def read_npz(path: str | os.PathLike[str]) -> VerificationPairs:
    """Read pairs that ``write_npz`` wrote; the encoded images are held, none is decoded.

    Raises:
        PocketNetError: The file is missing or damaged, or holds other arrays (Python objects are refused).
    """
    path = Path(path)
    if not path.is_file():
        raise PocketNetError(f"{path}: no such verification file")
    arrays = _arrays(path)
    images, offsets, same = (arrays[name] for name in _ARRAYS)
    if len(offsets) != 2 * len(same) + 1:
        raise PocketNetError(f"{path}: {max(len(offsets) - 1, 0)} images do not make {len(same)} pairs")
    if offsets[0] != 0 or offsets[-1] != len(images) or (np.diff(offsets) < 0).any():
        raise PocketNetError(f"{path}: damaged: the offsets do not divide the images' bytes")
    return VerificationPairs(_Slices(images, offsets), same, str(path))


def write_npz(
    path: str | os.PathLike[str], pairs: VerificationPairs, on_image: Callable[[], None] = lambda: None
) -> None:
    """Write pairs as plain arrays; see ``pair_files.write_pairs``.

    Raises:
        PocketNetError: See ``write_pairs``.
    """
    with atomic_write(path) as file:
        images = pairs.encoded(on_image)
        offsets = np.cumsum([0, *map(len, images)], dtype=np.int64)
        np.savez(
            file,
            images=np.frombuffer(b"".join(images), np.uint8),
            offsets=offsets,
            same=np.asarray(pairs.same),
        )


def _arrays(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > _MAX_RATIO * path.stat().st_size:
            raise PocketNetError(f"{path}: refused: it would unpack to {unpacked:,} bytes")
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in _ARRAYS if name in archive}
    except PocketNetError:
        raise
    except MemoryError:
        raise PocketNetError(f"{path}: damaged: it states more data than fits into memory") from None
    except Exception as error:
        # zipfile, zlib and numpy raise many unrelated types on damaged files.
        raise PocketNetError(f"{path}: damaged or no verification file: {error}") from None
    for name, dtype in _ARRAYS.items():
        found = arrays.get(name)
        # An entry that is no array comes as bytes.
        if not isinstance(found, np.ndarray) or found.dtype != dtype or found.ndim != 1:
            about = "absent" if found is None else "no array"
            if isinstance(found, np.ndarray):
                about = f"{found.dtype} of {found.ndim} dimensions"
            raise PocketNetError(
                f"{path}: the array {name} is {about}; expected {np.dtype(dtype).name}, one dimension"
            )
    return arrays
