"""``.bin`` verification files: a pickle of (2N encoded images, N booleans), read as nothing but data."""

from __future__ import annotations

import codecs
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pocketnet_fast.data.plain_pickle import RefusedPickle, load_plain
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.evaluation.pairs import VerificationPairs
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
}


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
        content = load_plain(file, str(path), "verification file", _NAMES)
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
        if type(flag) not in (bool, int) or flag not in (0, 1):
            # Nested lists that share their parts, and long integers, can be endless in print.
            plain = type(flag) is int and flag.bit_length() < 64
            mark = str(flag) if plain else f"by a {type(flag).__name__}"
            raise PocketNetError(f"{path}: pair {index} is marked {mark}; expected true or false")
    return VerificationPairs(list(images), np.array(same, dtype=bool), str(path))


def write_bin(
    path: str | os.PathLike[str], pairs: VerificationPairs, on_image: Callable[[], None] = lambda: None
) -> None:
    """Write a verification file that readers of Python 2 and 3 understand.

    Args:
        path: The file.
        pairs: What to write.
        on_image: Called after each image, for progress.

    Raises:
        PocketNetError: If the file cannot be written; or what reading the images raises.
    """
    with atomic_write(path) as file:
        images = []
        for image in pairs.images:
            images.append(image)
            on_image()
        pickle.dump((images, pairs.same.tolist()), file, protocol=2)
