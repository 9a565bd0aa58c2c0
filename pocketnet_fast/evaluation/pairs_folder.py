"""Verification pairs as a folder: image files, and ``pairs.csv`` with the columns left, right, same."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from pocketnet_fast.data.images import read_bytes
from pocketnet_fast.data.writing import image_suffix, new_folder
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.evaluation.pairs import PAIRS_NAME, EncodedImages, VerificationPairs

_COLUMNS: Final = ("left", "right", "same")
_FLAGS: Final = {"1": True, "0": False, "true": True, "false": False}


class _Files(EncodedImages):
    """Files that are read when they are asked for."""

    def __init__(self, files: Sequence[str]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def image(self, index: int) -> bytes:
        return read_bytes(self._files[index])


def read_pairs_folder(path: str | os.PathLike[str]) -> VerificationPairs:
    """Read ``pairs.csv`` of a folder; images are read when they are asked for.

    Files are named relative to the folder and lie in it; ``same`` is 1 or 0, true or false.

    Raises:
        PocketNetError: There is no readable ``pairs.csv``, or a line of it is no pair; the message names
            the line.
    """
    folder = Path(path)
    table = folder / PAIRS_NAME
    files: list[str] = []
    same: list[bool] = []
    try:
        with table.open(newline="", encoding="utf-8") as stream:
            reader = csv.reader(stream)
            header = next(reader, [])
            if tuple(name.strip() for name in header) != _COLUMNS:
                raise PocketNetError(f"{table}: line 1 is {header!r:.80}; expected {','.join(_COLUMNS)}")
            for row in reader:
                where = f"{table}, line {reader.line_num}"
                if len(row) != len(_COLUMNS):
                    raise PocketNetError(f"{where}: {len(row)} columns; expected {','.join(_COLUMNS)}")
                files += [_inside(folder, name, where) for name in row[:2]]
                flag = _FLAGS.get(row[2].strip().lower())
                if flag is None:
                    raise PocketNetError(f"{where}: same is {row[2]!r:.80}; expected 1 or 0")
                same.append(flag)
    except OSError as error:
        raise PocketNetError(f"{table} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise PocketNetError(f"{table} is no text of columns: {error}") from None
    return VerificationPairs(_Files(files), np.array(same, dtype=bool), str(folder), files)


def write_pairs_folder(
    path: str | os.PathLike[str], pairs: VerificationPairs, on_image: Callable[[], None] = lambda: None
) -> None:
    """Write a folder of image files and ``pairs.csv``; it appears when it is complete.

    Args:
        path: The folder, which must not exist.
        pairs: What to write.
        on_image: Called after each image, for progress.

    Raises:
        PocketNetError: The folder exists or cannot be written, or the kind of an image is unknown; or what
            reading the images raises.
    """
    digits = len(str(max(len(pairs) - 1, 0)))
    with new_folder(path) as folder:
        names = []
        for index, image in enumerate(pairs.images):
            suffix = image_suffix(image)
            if suffix is None:
                raise PocketNetError(f"{pairs.name}: image {index} is neither JPEG, PNG, WebP nor BMP")
            names.append(f"{index // 2:0{digits}}{'ab'[index % 2]}{suffix}")
            (folder / names[-1]).write_bytes(image)
            on_image()
        with (folder / PAIRS_NAME).open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(_COLUMNS)
            writer.writerows(zip(names[::2], names[1::2], pairs.same.astype(int).tolist(), strict=True))


def _inside(folder: Path, name: str, where: str) -> str:
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise PocketNetError(f"{where}: {name!r:.80} is no file in the folder")
    return str(folder / name)
