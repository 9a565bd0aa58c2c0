"""Encoded images that lie in record files and parquet tables, and parts of many images, wherever they lie."""

from __future__ import annotations

import abc
import bisect
import contextlib
import functools
import itertools
import os
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from pocketnet_fast.data.parquet_file import require_pyarrow
from pocketnet_fast.data.recordio import Index, RecordFile, image_index, unpack_image
from pocketnet_fast.errors import PocketNetError

_CONTENT: Final = ("image", "bytes")
_NAME: Final = ("file", "path")
# Types as pyarrow writes them.
_BINARY: Final = re.compile(r"(large_)?binary(_view)?|fixed_size_binary\[\d+\]|null")
_TEXT: Final = re.compile(r"(large_)?string(_view)?|null")
# Row groups that are kept: the one that is read, and the next, which another thread may have begun.
_GROUPS: Final = 2


class StoredImage(abc.ABC):
    """An encoded image that is no file of its own. It may be pickled; each process opens its file for itself.

    Attributes:
        place: Where it lies, ``FILE#NUMBER``.
    """

    place: str

    @property
    def name(self) -> str:
        """How errors and results call it."""
        return self.place

    @abc.abstractmethod
    def read(self) -> bytes:
        """Its content.

        Raises:
            PocketNetError: It cannot be read.
        """


AnyImage = str | StoredImage
"""An image file's path, or an image in another file."""


@dataclass(frozen=True)
class RecordImage(StoredImage):
    """An image record.

    Attributes:
        path: The record file.
        key: The key of the record.
    """

    path: str
    key: int

    @property
    def place(self) -> str:  # type: ignore[override] # noqa: D102
        return f"{self.path}#{self.key}"

    def read(self) -> bytes:  # noqa: D102
        return unpack_image(_record_file(self.path).read(self.key), self.place).image


@dataclass(frozen=True)
class TableImage(StoredImage):
    """A row of a parquet table.

    Attributes:
        path: The table.
        row: From 0.
    """

    path: str
    row: int

    @property
    def place(self) -> str:  # type: ignore[override] # noqa: D102
        return f"{self.path}#{self.row}"

    @property
    def name(self) -> str:
        """What the table calls it, or else its place."""
        # Errors are named, too, those of a row group that cannot be read as well.
        with contextlib.suppress(PocketNetError):
            return self._cells()[0] or self.place
        return self.place

    def read(self) -> bytes:  # noqa: D102
        name, content = self._cells()
        if content is None:
            raise PocketNetError(f"{name or self.place} has no image")
        return content

    def _cells(self) -> tuple[str | None, bytes | None]:
        return _table(self.path).cells(self.row)


class ImageInputs:
    """Images in one order: files and records as they are given, then the rows of parquet tables.

    Args:
        files: Image files, record files (``.rec``) and parquet tables (``.parquet``), which have a column
            ``image`` or ``bytes`` of encoded images (binary, or a struct with ``bytes`` and ``path``) and may
            have a column ``file`` or ``path`` of names.

    Raises:
        PocketNetError: A record file or table cannot be read or is none, or pyarrow is not installed.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._listed: list[_Paths | _Records] = []
        self._tables: list[_Table] = []
        for kind, some in itertools.groupby(files, lambda file: file.suffix.lower()):
            if kind == ".rec":
                self._listed += [_Records(os.fspath(file)) for file in some]
            elif kind == ".parquet":
                self._tables += [_table(os.fspath(file)) for file in some]
            else:
                self._listed.append(_Paths(list(map(os.fspath, some))))
        self._ends = list(itertools.accumulate(map(len, self._listed)))
        self._table_ends = list(itertools.accumulate(map(len, self._tables)))

    def __len__(self) -> int:
        return sum(self._ends[-1:]) + sum(self._table_ends[-1:])

    def part(self, number: int, parts: int) -> list[AnyImage]:
        """One of equal parts, which together are all images once.

        Of files and records it has every ``parts``-th, so that parts are of like photos; of tables it has
        rows that follow each other, as reading one means reading its whole row group.

        Args:
            number: From 1.
            parts: How many.
        """
        listed = range(number - 1, sum(self._ends[-1:]), parts)
        rows = sum(self._table_ends[-1:])
        found = [self._at(self._listed, self._ends, place) for place in listed]
        run = range(rows * (number - 1) // parts, rows * number // parts)
        return found + [self._at(self._tables, self._table_ends, place) for place in run]

    @staticmethod
    def _at(held: Sequence[_Paths | _Records | _Table], ends: Sequence[int], place: int) -> AnyImage:
        which = bisect.bisect_right(ends, place)
        return held[which].image(place - (ends[which - 1] if which else 0))


class _Paths:
    def __init__(self, paths: list[str]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def image(self, number: int) -> AnyImage:
        return self._paths[number]


class _Records:
    def __init__(self, path: str) -> None:
        self._path = path
        self._index: Index = image_index(_record_file(path))
        if not len(self._index):
            raise PocketNetError(f"{path} holds no image")

    def __len__(self) -> int:
        return len(self._index)

    def image(self, number: int) -> AnyImage:
        return RecordImage(self._path, int(self._index[number, 0]))


class _Table:
    """A parquet table of images."""

    def __init__(self, path: str) -> None:
        arrow = require_pyarrow()
        from pyarrow import parquet

        self._path = path
        self._lock = threading.Lock()
        self._held: dict[int, tuple[list[str | None], Any]] = {}
        try:
            self._file = parquet.ParquetFile(path, memory_map=True)
            schema = self._file.schema_arrow
        except FileNotFoundError:
            raise PocketNetError(f"{path}: no such file") from None
        except (OSError, ValueError, arrow.ArrowException) as error:
            raise PocketNetError(f"{path} cannot be read as parquet: {error}") from None
        names = schema.names
        self._content = next((name for name in _CONTENT if name in names), None)
        self._name = next((name for name in _NAME if name in names), None)
        if self._content is None:
            raise PocketNetError(
                f"{path} has the columns {', '.join(names)}; expected encoded images in a column "
                f"{' or '.join(_CONTENT)}"
            )
        _check_types(path, {name: schema.field(name).type for name in (self._content, self._name) if name})
        about = self._file.metadata
        counts = [about.row_group(group).num_rows for group in range(about.num_row_groups)]
        if min(counts, default=0) < 0:
            raise PocketNetError(f"{path}: damaged: a row group states {min(counts)} rows")
        self._counts = counts
        self._ends = np.cumsum(np.array(counts, np.int64))

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def image(self, number: int) -> AnyImage:
        return TableImage(self._path, number)

    def cells(self, row: int) -> tuple[str | None, bytes | None]:
        """Name and content of a row; None where it has none."""
        group = int(np.searchsorted(self._ends, row, "right"))
        with self._lock:
            if group not in self._held:
                while len(self._held) >= _GROUPS:
                    del self._held[min(self._held)]
                self._held[group] = self._read(group)
            names, contents = self._held[group]
        at = row - (int(self._ends[group - 1]) if group else 0)
        content = contents[at].as_py()
        if isinstance(content, dict):
            return names[at] or content.get("path"), content.get("bytes")
        return names[at], content

    def _read(self, group: int) -> tuple[list[str | None], Any]:
        arrow = require_pyarrow()
        columns = [self._content] if self._name is None else [self._name, self._content]
        try:
            found = self._file.read_row_group(group, columns=columns)
            # Text that is none, and indices into dictionaries, are read unchecked.
            found.validate(full=True)
        except (OSError, ValueError, arrow.ArrowException) as error:
            raise PocketNetError(f"{self._path}: row group {group} cannot be read: {error}") from None
        if len(found) != self._counts[group]:
            raise PocketNetError(
                f"{self._path}: damaged: row group {group} states {self._counts[group]} rows, and has "
                f"{len(found)}"
            )
        names = [None] * len(found) if self._name is None else found[self._name].to_pylist()
        return names, found[self._content]


def _check_types(path: str, types: dict[str, Any]) -> None:
    for name, stated in types.items():
        kind = stated.value_type if str(stated).startswith("dictionary<") else stated
        fits = _is_text(kind) if name in _NAME else _holds_images(kind)
        if not fits:
            expected = "text" if name in _NAME else "encoded images (binary, or a struct of bytes and path)"
            raise PocketNetError(f"{path}: the column {name} is {stated}; expected {expected}")


def _is_text(kind: Any) -> bool:
    return _TEXT.fullmatch(str(kind)) is not None


def _holds_images(kind: Any) -> bool:
    if not str(kind).startswith("struct<"):
        return _BINARY.fullmatch(str(kind)) is not None
    parts = {field.name: field.type for field in kind}
    return _BINARY.fullmatch(str(parts.get("bytes"))) is not None and _is_text(parts.get("path", "null"))


@functools.lru_cache(maxsize=64)
def _record_file(path: str) -> RecordFile:
    return RecordFile(path)


@functools.lru_cache(maxsize=64)
def _table(path: str) -> _Table:
    return _Table(path)
