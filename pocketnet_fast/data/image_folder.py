"""The images below a folder: those that are read when they are named, and what the other files are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pocketnet_fast.data.folder import IMAGE_SUFFIXES
from pocketnet_fast.data.image_header import what_is

_HEAD: Final = 4096


@dataclass(frozen=True)
class ImagesBelow:
    """The files of a folder and the folders in it.

    Attributes:
        images: Those that are read, sorted.
        others: The rest with what they are, as in "a HEIC image"; hidden files are left out.
    """

    images: list[Path]
    others: list[tuple[Path, str]]


def images_below(folder: Path) -> ImagesBelow:
    """Find images by their suffix, and files of other suffixes by their first bytes.

    Raises:
        OSError: A folder cannot be read.
    """
    images, others = [], []
    for path in sorted(folder.rglob("*")):
        if path.name.startswith(".") or not path.is_file():
            continue
        if path.suffix.lower() in IMAGE_SUFFIXES:
            images.append(path)
            continue
        kind = _kind(path)
        if kind is None:
            images.append(path)
        else:
            others.append((path, kind))
    return ImagesBelow(images, others)


def _kind(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return what_is(file.read(_HEAD))
    except OSError as error:
        return f"unreadable: {error.strerror}"
