"""``.bin`` verification files: a pickle of (2N encoded images, N booleans), read as nothing but data."""

from __future__ import annotations

import codecs
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from pocketnet_fast.data.plain_pickle import RefusedPickle, load_plain
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.evaluation import pickled_numpy
from pocketnet_fast.evaluation.pairs import VerificationPairs
from pocketnet_fast.evaluation.pickled_numpy import Values
from pocketnet_fast.files import atomic_write


class _NoBytes:
    # Without a dictionary, as a pickle may set attributes on what find_class gives it.
    __slots__ = ()

    def __call__(self, *arguments: Any) -> bytes:
        if arguments:
            raise RefusedPickle("it calls bytes with arguments")
        return b""


class _Latin1:
    __slots__ = ()

    def __call__(self, text: Any, encoding: Any = "latin1") -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
            raise RefusedPickle("it encodes something that is no latin1 text")
        return codecs.encode(text, "latin1")


# How Python 3 wrote bytes for Python 2: as a call of ``_codecs.encode``, and empty ones as one of ``bytes``.
_NAMES = {
    ("_codecs", "encode"): _Latin1,
    ("builtins", "bytes"): _NoBytes,
    ("__builtin__", "bytes"): _NoBytes,
    **pickled_numpy.NAMES,
}
_ADVICE: Final = (
    "write it again as bytes and bools: "
    "pickle.dump(([bytes(image) for image in images], [bool(flag) for flag in same]), file)"
)


def read_bin(path: str | os.PathLike[str]) -> VerificationPairs:
    """Read a verification file, written by Python 2 or 3.

    Images are bytes, bytearrays or numpy's uint8 arrays, as ``cv2.imencode`` returns them; the marks are
    Python's or numpy's bools or 0 and 1, in a list or in an array.

    Raises:
        PocketNetError: The file is missing, damaged, holds anything but images and booleans, or its pickle
            names a class or function (which is refused, and never imported).
    """
    path = Path(path)
    if not path.is_file():
        raise PocketNetError(f"{path}: no such verification file")
    with path.open("rb") as file:
        content = load_plain(file, str(path), "verification file", _NAMES, _ADVICE)
    if not isinstance(content, (tuple, list)) or len(content) != 2:
        raise PocketNetError(f"{path}: expected a pair of lists, found a {_kind(content)}")
    images, same = content
    if isinstance(same, Values) and len(same.shape) == 1:
        same = same.numbers()
    if not isinstance(images, (tuple, list)) or not isinstance(same, (tuple, list)):
        raise PocketNetError(f"{path}: expected two lists, one of images and one of booleans")
    if len(images) != 2 * len(same):
        raise PocketNetError(f"{path}: {len(images)} images do not make {len(same)} pairs")
    encoded = [_encoded(path, index, image) for index, image in enumerate(images)]
    marks = [
        flag.numbers()[0] if isinstance(flag, Values) and flag.shape in ((), (1,)) else flag for flag in same
    ]
    for index, flag in enumerate(marks):
        if type(flag) not in (bool, int) or flag not in (0, 1):
            # Nested lists that share their parts, and long integers, can be endless in print.
            plain = type(flag) is int and flag.bit_length() < 64
            mark = str(flag) if plain else f"by a {_kind(flag)}"
            raise PocketNetError(f"{path}: pair {index} is marked {mark}; expected true or false")
    return VerificationPairs(encoded, np.array(marks, dtype=bool), str(path))


def _encoded(path: Path, index: int, image: Any) -> bytes:
    if isinstance(image, Values) and image.code == "u1":
        # A row, or a column as older versions of OpenCV return it.
        if sum(n != 1 for n in image.shape) <= 1:
            return image.raw
        shape = "x".join(map(str, image.shape))
        raise PocketNetError(
            f"{path}: image {index} is {shape} pixels; expected an encoded image, PNG or JPEG"
        )
    if isinstance(image, (bytes, bytearray)):
        return bytes(image)
    raise PocketNetError(f"{path}: image {index} is a {_kind(image)}, not an encoded image")


def _kind(value: Any) -> str:
    return "numpy array" if isinstance(value, Values) else type(value).__name__


def write_bin(
    path: str | os.PathLike[str], pairs: VerificationPairs, on_image: Callable[[], None] = lambda: None
) -> None:
    """Write a verification file that readers of Python 2 and 3 understand; see ``pair_files.write_pairs``.

    Raises:
        PocketNetError: The file cannot be written; or what reading the images raises.
    """
    with atomic_write(path) as file:
        images = pairs.encoded(on_image)
        pickle.dump((images, pairs.same.tolist()), file, protocol=2)
