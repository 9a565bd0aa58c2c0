"""CIFAR-10's training images from the archive as it is distributed, in either form."""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from pocketnet_fast.data.alignment import CROP_SIZE
from pocketnet_fast.data.dataset import FaceDataset
from pocketnet_fast.data.images import ImageArray
from pocketnet_fast.data.plain_pickle import RefusedPickle, load_plain
from pocketnet_fast.errors import PocketNetError

_CLASSES: Final = 10
_SIDE: Final = 32
_PIXELS: Final = 3 * _SIDE * _SIDE
_RECORD: Final = 1 + _PIXELS
_BATCH: Final = re.compile(r"data_batch_[1-5](\.bin)?")
_MAX_MEMBER: Final = 64 << 20  # a batch of 10,000 images has 31 MB

Bytes = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


class CifarDataset(FaceDataset):
    """The training images of CIFAR-10, scaled from 32x32 to the crops' 112x112 (bilinear).

    Args:
        path: ``cifar-10-python.tar.gz`` or ``cifar-10-binary.tar.gz``. The archive is read into memory; the
            pickles in the former are read as data alone.

    Raises:
        PocketNetError: It is no such archive or is damaged; names the batch in it, and the record.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name, self.classes = str(path), _CLASSES
        batches = dict(sorted(_batches(Path(path))))
        if not batches:
            raise PocketNetError(
                f"{path} holds no data_batch_1 to 5; expected cifar-10-python.tar.gz or "
                "cifar-10-binary.tar.gz"
            )
        self._pixels = np.concatenate([pixels for pixels, _ in batches.values()])
        self.labels = np.concatenate([labels for _, labels in batches.values()])

    def image(self, index: int) -> ImageArray:
        """Return an image: 112 x 112 x 3 uint8, RGB."""
        small = np.ascontiguousarray(self._pixels[index].reshape(3, _SIDE, _SIDE).transpose(1, 2, 0))
        scaled = cv2.resize(small, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_LINEAR)
        return np.asarray(scaled, np.uint8)


def _batches(path: Path) -> Iterator[tuple[str, tuple[Bytes, Labels]]]:
    for name, data in _files(path):
        read = _from_binary if name.endswith(".bin") else _from_pickle
        yield name, read(data, f"{path}: {name}")


def _files(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                if not member.isfile() or not _BATCH.fullmatch(name):
                    continue
                if member.size > _MAX_MEMBER:
                    raise PocketNetError(
                        f"{path}: {name} has {member.size} bytes; expected a batch of CIFAR-10"
                    )
                file = archive.extractfile(member)
                assert file is not None
                yield name, file.read()
    except PocketNetError:
        raise
    except FileNotFoundError:
        raise PocketNetError(f"{path}: no such archive") from None
    except Exception as error:
        # On damaged archives tarfile and the packers below it raise many unrelated types.
        raise PocketNetError(f"{path}: damaged or no archive: {error}") from None


def _from_binary(data: bytes, name: str) -> tuple[Bytes, Labels]:
    """Records of a label and the red, green and blue plane."""
    if not data or len(data) % _RECORD:
        raise PocketNetError(f"{name} has {len(data)} bytes; expected records of {_RECORD}")
    records = np.frombuffer(data, np.uint8).reshape(-1, _RECORD)
    return records[:, 1:], _checked(records[:, 0].astype(np.int64), name, _RECORD)


def _from_pickle(data: bytes, name: str) -> tuple[Bytes, Labels]:
    """A dictionary of an array N x 3072 and a list of labels."""
    content = load_plain(io.BytesIO(data), name, "batch of CIFAR-10", _NAMES)
    if not isinstance(content, dict):
        raise PocketNetError(f"{name} holds a {type(content).__name__}; expected a dictionary")
    pixels, labels = content.get(b"data"), content.get(b"labels")
    if not isinstance(pixels, _Array) or not isinstance(labels, list):
        raise PocketNetError(f'{name} lacks the array "data" or the list "labels"')
    if not all(type(label) is int and 0 <= label < _CLASSES for label in labels):
        raise PocketNetError(f"{name} has labels other than 0 to {_CLASSES - 1}")
    return pixels.images(len(labels), name), np.array(labels, np.int64)


def _checked(labels: Labels, name: str, record: int) -> Labels:
    wrong = np.flatnonzero(labels >= _CLASSES)
    if len(wrong):
        first = int(wrong[0])
        raise PocketNetError(
            f"{name}, offset {first * record}: label {labels[first]}; expected 0 to {_CLASSES - 1}"
        )
    return labels


class _Array:
    """Stands in for numpy's array while a pickle is read: keeps the bytes, and what they are said to be."""

    __slots__ = ("_state",)

    def __init__(self) -> None:
        self._state: Any = None

    def __setstate__(self, state: Any) -> None:
        self._state = state

    def images(self, count: int, name: str) -> Bytes:
        state = self._state
        # (version, shape, type, column-major, bytes), as numpy pickles arrays.
        fits = isinstance(state, tuple) and len(state) == 5
        if not fits or not isinstance(state[2], _Type) or not isinstance(state[4], bytes):
            raise PocketNetError(f"{name}: its array is none of bytes")
        _, shape, kind, column_major, data = state
        if kind.code not in (b"u1", "u1") or shape != (count, _PIXELS) or len(data) != count * _PIXELS:
            raise PocketNetError(f"{name}: its array is not uint8 of {count} x {_PIXELS}, one row per label")
        flat = np.frombuffer(data, np.uint8)
        return flat.reshape(_PIXELS, count).T if column_major else flat.reshape(count, _PIXELS)


class _Type:
    """Stands in for numpy's description of an array's type."""

    __slots__ = ("code",)

    def __init__(self, code: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like, which bytes do not have."""


class _MakeArray:
    """Stands in for the function that makes an empty array, whose state follows."""

    __slots__ = ()

    def __call__(self, kind: Any, shape: Any, code: Any) -> _Array:
        if not isinstance(kind, _ArrayClass):
            raise RefusedPickle("it makes an array of another class")
        return _Array()


class _MakeType:
    __slots__ = ()

    def __call__(self, code: Any, *flags: Any) -> _Type:
        return _Type(code)


class _ArrayClass:
    __slots__ = ()


_NAMES: Final = {
    ("numpy.core.multiarray", "_reconstruct"): _MakeArray,
    ("numpy._core.multiarray", "_reconstruct"): _MakeArray,
    ("numpy", "ndarray"): _ArrayClass,
    ("numpy", "dtype"): _MakeType,
}
