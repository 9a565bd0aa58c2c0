"""``.bin`` verification files: a pickle of (2N encoded images, N booleans), read as nothing but data."""

from __future__ import annotations

import codecs
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.files import atomic_write


@dataclass(frozen=True)
class VerificationPairs:
    """Pairs of faces and whether each shows one person.

    Attributes:
        images: Encoded images, 2N: pair i is images 2i and 2i + 1.
        same: bool, N.
    """

    images: list[bytes]
    same: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.same)


class _Refused(Exception):
    pass


class _DataUnpickler(pickle.Unpickler):
    """Builds bytes, booleans, lists and tuples; any class or function is refused by name.

    The two exceptions are how Python 3 wrote bytes for Python 2: as a call of ``_codecs.encode``, and empty
    ones as a call of ``bytes``.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _encode_latin1
        if module in ("builtins", "__builtin__") and name == "bytes":
            return _no_bytes
        raise _Refused(f"it names {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("it refers to objects outside the file")


def _no_bytes(*arguments: Any) -> bytes:
    if arguments:
        raise _Refused("it calls bytes with arguments")
    return b""


def _encode_latin1(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise _Refused("it encodes something that is no latin1 text")
    return codecs.encode(text, "latin1")


def read_bin(path: str | os.PathLike[str]) -> VerificationPairs:
    """Read a verification file, written by Python 2 or 3.

    Raises:
        PocketNetError: If the file is missing, damaged, holds anything but images and booleans, or its pickle
            names a class or function (which is refused, and never imported).
    """
    path = Path(path)
    if not path.is_file():
        raise PocketNetError(f"{path}: no such verification file")
    with path.open("rb") as file:
        content = _load(path, file)
    if not isinstance(content, (tuple, list)) or len(content) != 2:
        raise PocketNetError(f"{path}: expected a pair of lists, found {type(content).__name__}")
    images, same = content
    if not isinstance(images, (tuple, list)) or not isinstance(same, (tuple, list)):
        raise PocketNetError(f"{path}: expected two lists, one of images and one of booleans")
    if len(images) != 2 * len(same):
        raise PocketNetError(f"{path}: {len(images)} images do not make {len(same)} pairs")
    for index, image in enumerate(images):
        if not isinstance(image, bytes):
            raise PocketNetError(f"{path}: image {index} is a {type(image).__name__}, not an encoded image")
    for index, flag in enumerate(same):
        if flag not in (0, 1):
            raise PocketNetError(f"{path}: pair {index} is marked {flag!r}; expected true or false")
    return VerificationPairs(list(images), np.array(same, dtype=bool))


def write_bin(path: str | os.PathLike[str], pairs: VerificationPairs) -> None:
    """Write a verification file that readers of Python 2 and 3 understand.

    Raises:
        PocketNetError: If the file cannot be written.
    """
    with atomic_write(path) as file:
        pickle.dump((pairs.images, pairs.same.tolist()), file, protocol=2)


def _load(path: Path, file: BinaryIO) -> Any:
    try:
        return _DataUnpickler(file, encoding="bytes").load()
    except _Refused as error:
        raise PocketNetError(f"{path}: refused, {error}; a verification file holds plain data only") from None
    except MemoryError:
        raise PocketNetError(f"{path}: damaged: it states more data than fits into memory") from None
    except Exception as error:
        # A damaged pickle raises whatever its opcodes stumble over.
        raise PocketNetError(f"{path}: damaged or no verification file: {error}") from None
