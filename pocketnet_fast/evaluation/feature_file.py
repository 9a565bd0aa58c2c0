"""Feature files of the MegaFace development kit: an OpenCV matrix after a header of four integers.

The header is four little-endian int32: rows, columns, bytes per row, OpenCV's type (5: one channel of
float32). An embedding of D numbers is stored as D rows of one column, 4 bytes each. This is what the kit's
``matio.py`` reads, and what the published extraction scripts write (``struct.pack("4i", D, 1, 4, 5)``, for
example in InsightFace's evaluation of MegaFace). A file of N x D, which OpenCV's matrices allow as well,
holds the embeddings of a whole list here.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.files import atomic_write

Features = npt.NDArray[np.float32]

_HEADER: Final = struct.Struct("<4i")
_FLOAT32: Final = 5
_TYPES: Final = {0: "uint8", 1: "int8", 2: "uint16", 3: "int16", 4: "int32", 6: "float64", 7: "float16"}


def read_features(path: str | os.PathLike[str]) -> Features:
    """Map a feature file: rows x columns float32; what is written to the array changes no file.

    Raises:
        PocketNetError: No such file, another type of numbers, or a size that the header does not state.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER.size)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        raise PocketNetError(f"{path}: no such feature file") from None
    except OSError as error:
        raise PocketNetError(f"{path} cannot be read: {error.strerror}") from None
    if len(header) < _HEADER.size:
        raise PocketNetError(f"{path}: truncated at byte {size}, inside the header of {_HEADER.size} bytes")
    rows, columns, stride, kind = _HEADER.unpack(header)
    if kind != _FLOAT32:
        named = _TYPES.get(kind, "several channels or unknown")
        raise PocketNetError(
            f"{path}, byte 12: numbers of OpenCV's type {kind} ({named}); expected 5, float32"
        )
    if rows < 1 or columns < 1 or stride < 4 * columns or stride % 4:
        raise PocketNetError(
            f"{path}: {rows} rows of {columns} numbers in {stride} bytes each make no matrix"
        )
    expected = _HEADER.size + rows * stride
    if size != expected:
        state = "truncated" if size < expected else "too long"
        raise PocketNetError(f"{path}: {state}: {size} bytes, of which the header states {expected}")
    matrix = np.memmap(path, "<f4", "c", _HEADER.size, (rows, stride // 4))
    return np.asarray(matrix[:, :columns])


def read_embedding(path: str | os.PathLike[str]) -> Features:
    """Read one embedding, stored as a column (as the kit does) or as a row: D float32.

    Raises:
        PocketNetError: See ``read_features``; a matrix of several rows and columns; a number is not finite.
    """
    matrix = read_features(path)
    if 1 not in matrix.shape:
        raise PocketNetError(f"{path}: a matrix of {matrix.shape}; expected one embedding")
    embedding = np.array(matrix).reshape(-1)
    wrong = np.flatnonzero(~np.isfinite(embedding))
    if len(wrong):
        raise PocketNetError(
            f"{path}, byte {_HEADER.size + 4 * int(wrong[0])}: number {int(wrong[0])} is not finite"
        )
    return embedding


def write_embedding(path: str | os.PathLike[str], embedding: Features) -> None:
    """Write one embedding, D float32, as the kit expects it: D rows of one column.

    Raises:
        PocketNetError: The file cannot be written.
    """
    with atomic_write(path) as file:
        file.write(_HEADER.pack(len(embedding), 1, 4, _FLOAT32))
        file.write(np.ascontiguousarray(embedding, "<f4").tobytes())


@contextlib.contextmanager
def writing_features(
    path: str | os.PathLike[str], rows: int, columns: int
) -> Iterator[Callable[[Features], None]]:
    """Write a matrix row by row; yields what takes the next embedding, and the file appears at the end.

    Raises:
        PocketNetError: The file cannot be written, or another number of embeddings was given.
    """
    given = 0
    with atomic_write(path) as file:
        file.write(_HEADER.pack(rows, columns, 4 * columns, _FLOAT32))

        def write(embedding: Features) -> None:
            nonlocal given
            if embedding.shape != (columns,):
                raise PocketNetError(f"{path}: expected {columns} numbers, got {embedding.shape}")
            file.write(np.ascontiguousarray(embedding, "<f4").tobytes())
            given += 1

        yield write
        if given != rows:
            raise PocketNetError(f"{path}: {given} embeddings were given, not {rows}")
