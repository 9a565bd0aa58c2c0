"""Several datasets as one, some drawn more often than others, described by a TOML file::

    [[faces]]
    source = "frontal"                   # what open_dataset takes; a path is relative to this file
    exclude = "frontal/exclude.txt"      # places in it that are left out, a number per line

    [[faces]]
    source = "profiles"
    repeat = 3                           # how often an epoch shows each of its images

An epoch shows them all, in an order that mixes them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pocketnet_fast.data.dataset import FaceDataset
from pocketnet_fast.data.images import ImageArray
from pocketnet_fast.errors import PocketNetError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_KEYS: Final = ("source", "repeat", "exclude")
_MAX_REPEAT: Final = 10_000
_DIGITS: Final = 18


class MixtureDataset(FaceDataset):
    """The images of several datasets; the identities of different datasets are different people.

    Args:
        path: A TOML file with a table ``[[faces]]`` per dataset: ``source``, and if wanted ``repeat`` (1) and
            ``exclude`` (a text file of places from 0, one per line).
        open_part: Opens a dataset by its source.

    Attributes:
        parts: The datasets.

    Raises:
        PocketNetError: The file says something else, or a dataset cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str], open_part: Callable[[str], FaceDataset]) -> None:
        file = Path(path)
        self.name = str(path)
        self.parts: list[FaceDataset] = []
        labels, owners, places, self.classes = [], [], [], 0
        for table in _tables(file):
            part = open_part(_source(file, table))
            kept = _kept(file, table, len(part))
            used, renumbered = np.unique(part.labels[kept], return_inverse=True)
            for _ in range(table.get("repeat", 1)):
                labels.append(renumbered.astype(np.int64) + self.classes)
                owners.append(np.full(len(kept), len(self.parts)))
                places.append(kept)
            self.classes += len(used)
            self.parts.append(part)
        self.labels = np.concatenate(labels)
        self._owners, self._places = np.concatenate(owners), np.concatenate(places)
        if not len(self.labels):
            raise PocketNetError(f"{file} leaves no image")

    def image(self, index: int) -> ImageArray:
        """Read one crop of one of the datasets: 112 x 112 x 3 uint8, RGB."""
        return self.parts[self._owners[index]].image(int(self._places[index]))


def _tables(file: Path) -> list[dict[str, Any]]:
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PocketNetError(f"{file} cannot be read as a mixture of datasets: {error}") from None
    tables = document.pop("faces", None)
    if document or not isinstance(tables, list) or not tables or not all(isinstance(t, dict) for t in tables):
        raise PocketNetError(f"{file}: expected one table [[faces]] per dataset and nothing else")
    for table in tables:
        unknown = [key for key in table if key not in _KEYS]
        if unknown or not isinstance(table.get("source"), str):
            raise PocketNetError(
                f"{file}: a table [[faces]] has {', '.join(unknown) or 'no source'}; expected source, a "
                "text, and if wanted repeat and exclude"
            )
        repeat = table.get("repeat", 1)
        if type(repeat) is not int or not 1 <= repeat <= _MAX_REPEAT:
            raise PocketNetError(
                f"{file}: repeat = {repeat!r:.40}; expected a number from 1 to {_MAX_REPEAT:,}"
            )
        if not isinstance(table.get("exclude", ""), str):
            raise PocketNetError(f"{file}: exclude = {table['exclude']!r}; expected a file's path")
    return tables


def _source(file: Path, table: dict[str, Any]) -> str:
    source: str = table["source"]
    if source.partition(":")[0] == "synthetic":
        return source
    if source.endswith(file.suffix):
        raise PocketNetError(f"{file}: the source {source} is a mixture itself; list its datasets instead")
    return str(file.parent / source)


def _kept(file: Path, table: dict[str, Any], count: int) -> npt.NDArray[np.int64]:
    places = np.arange(count)
    if "exclude" not in table:
        return places
    listing = file.parent / table["exclude"]
    try:
        lines = listing.read_text(encoding="ascii").split()
    except (OSError, ValueError) as error:
        raise PocketNetError(f"{listing} cannot be read: {error}") from None
    wrong = next(
        (line for line in lines if not line.isdecimal() or len(line) > _DIGITS or int(line) >= count), None
    )
    if wrong is not None:
        raise PocketNetError(
            f"{listing} holds {wrong!r}; expected places in {table['source']}, 0 to {count - 1}"
        )
    return np.delete(places, [int(line) for line in lines])
