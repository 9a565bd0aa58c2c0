"""What a target of the fuzzers is, and what several of them need."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[3]
CORPORA = Path(__file__).resolve().parents[1] / "corpora"
# Between the files of a target that reads several.
BETWEEN = b"\n====\n"
# What mutations of files of these kinds may insert.
JSON_WORDS = (
    b"null",
    b"true",
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"1e999",
    b"9" * 30,
    b"[" * 40,
    b'{"a":' * 20,
)
PICKLE_WORDS = (
    b"cnumpy\ndtype\n",
    b"c_codecs\nencode\n",
    b"R",
    b"b",
    b"\x80\x04",
    b"\x94",
    b"h\x00",
    b"r",
    b"0" * 20,
)


@dataclass(frozen=True)
class Target:
    """One kind of file.

    Attributes:
        read: Reads bytes, with a folder to lay them into, which is empty again afterwards.
        seeds: What fuzzing begins with.
        words: What mutations may insert, besides what they find.
        longest: Bytes of an input.
    """

    read: Callable[[bytes, Path], None]
    seeds: Callable[[], Iterable[bytes]]
    words: tuple[bytes, ...] = ()
    longest: int = 4096


def laid(data: bytes, folder: Path, name: str) -> Path:
    """The path of a new file of these bytes."""
    path = folder / name
    path.write_bytes(data)
    return path


def as_text(data: bytes) -> str:
    """Text of any bytes."""
    return data.decode("utf-8", "replace")


def png() -> bytes:
    """A picture of the size of a crop."""
    import cv2

    return bytes(cv2.imencode(".png", np.zeros((112, 112, 3), np.uint8))[1])
