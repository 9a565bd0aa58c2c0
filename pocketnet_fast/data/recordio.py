"""RecordIO: the ``.rec`` / ``.idx`` files in which face datasets are distributed, read and written.

A record is the magic 0xced7230a, a word whose upper 3 bits say which part of a record this is and whose
lower 29 are the length, and the payload padded to 4 bytes, all little-endian. A payload that holds the magic
at a multiple of 4 bytes is split there, and the magic itself is left out: so a reader that lost its place
finds the next record by the magic alone.

An image record's payload starts with ``<IfQQ``: flag, label, id, id2. ``flag`` float32 labels follow when it
is positive, then the encoded image. Record 0 of a dataset may hold labels only, the first of which is the
exclusive end of the keys of images; records of identities may follow those.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.files import atomic_write

_MAGIC = 0xCED7230A
_MAGIC_BYTES = struct.pack("<I", _MAGIC)
_LENGTH_BITS = 29
_MAX_LENGTH = (1 << _LENGTH_BITS) - 1
_DIGITS = 40  # of a number in an index
_MAX_KEY = 10**18 - 1
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
_IMAGE_HEADER = struct.Struct("<IfQQ")

Labels = npt.NDArray[np.float32]
Index = npt.NDArray[np.int64]


class CorruptRecordError(PocketNetError):
    """A record that cannot be read; the message names the file and the offset."""


class RecordFile:
    """Random and sequential access to the records of a file.

    The file is mapped into memory. An object may be pickled, sent to worker processes, and used by several
    threads; each process maps the file for itself.

    Args:
        path: The ``.rec`` file.
        index: The ``.idx`` file, lines of key and offset; default: beside ``path``. If there is none, the
            index is rebuilt by walking the file, and keys are counted from 0.

    Attributes:
        index: int64, N x 2: keys and offsets in bytes, in the order of the index file.
        index_was_rebuilt: Whether there was no index file.

    Raises:
        PocketNetError: A file is missing or the index is no index of this file.
        CorruptRecordError: The index has to be rebuilt and the file is damaged.
    """

    def __init__(self, path: str | os.PathLike[str], index: str | os.PathLike[str] | None = None) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise PocketNetError(f"{self.path}: no such record file")
        self._map: mmap.mmap | None = None
        self._owner = -1
        index_path = self.path.with_suffix(".idx") if index is None else Path(index)
        if index is not None and not index_path.is_file():
            raise PocketNetError(f"{index_path}: no such index file")
        self.index_was_rebuilt = not index_path.is_file()
        if self.index_was_rebuilt:
            rebuilt = list(enumerate(offset for offset, _ in self.walk()))
            self.index: Index = np.array(rebuilt, np.int64).reshape(-1, 2)
        else:
            self.index = _read_index(index_path, self.path.stat().st_size)
        self._by_key = self.index
        if not (np.diff(self.index[:, 0]) > 0).all():
            self._by_key = self.index[np.argsort(self.index[:, 0])]

    @property
    def keys(self) -> tuple[int, ...]:
        """The keys, in the order of the index."""
        return tuple(self.index[:, 0].tolist())

    def __len__(self) -> int:
        return len(self.index)

    def __contains__(self, key: int) -> bool:
        place = np.searchsorted(self._by_key[:, 0], key)
        return bool(place < len(self) and self._by_key[place, 0] == key)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_map": None, "_owner": -1}

    def offset(self, key: int) -> int:
        """Where the record of ``key`` starts, in bytes.

        Raises:
            KeyError: There is no such key.
        """
        if key not in self:
            raise KeyError(key)
        return int(self._by_key[np.searchsorted(self._by_key[:, 0], key), 1])

    def read(self, key: int) -> bytes:
        """Return the payload of one record.

        Raises:
            KeyError: There is no such key.
            CorruptRecordError: The record is damaged.
        """
        return self._record(self.offset(key))[0]

    def read_at(self, offset: int) -> bytes:
        """Return the payload of the record that starts at ``offset``, without a look into the index.

        Raises:
            CorruptRecordError: No whole record starts there.
        """
        return self._record(offset)[0]

    def walk(self) -> Iterator[tuple[int, bytes]]:
        """Yield offset and payload of every record in the order of the file, without the index.

        Raises:
            CorruptRecordError: At the first damaged record.
        """
        offset = 0
        size = self.path.stat().st_size
        while offset < size:
            payload, end = self._record(offset)
            yield offset, payload
            offset = end

    def close(self) -> None:
        """Unmap the file; a later read maps it again."""
        if self._map is not None and self._owner == os.getpid():
            self._map.close()
        self._map = None

    def _mapped(self) -> mmap.mmap:
        if self._map is None or self._owner != os.getpid():
            if self.path.stat().st_size == 0:
                raise CorruptRecordError(f"{self.path}: offset 0: the file is empty")
            with self.path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._owner = os.getpid()
        return self._map

    def _part(self, offset: int) -> tuple[int, bytes, int]:
        """Part flag, payload and end of the part at ``offset``."""
        data = self._mapped()
        if offset + 8 > len(data):
            raise CorruptRecordError(f"{self.path}: offset {offset}: the file ends inside a record's header")
        magic, word = struct.unpack_from("<II", data, offset)
        if magic != _MAGIC:
            raise CorruptRecordError(
                f"{self.path}: offset {offset}: no record starts here (magic {magic:#010x})"
            )
        flag, length = word >> _LENGTH_BITS, word & _MAX_LENGTH
        begin = offset + 8
        if begin + length > len(data):
            raise CorruptRecordError(
                f"{self.path}: offset {offset}: the record of {length} bytes passes the end of the file"
            )
        return flag, data[begin : begin + length], min(begin + length + -length % 4, len(data))

    def _record(self, offset: int) -> tuple[bytes, int]:
        flag, payload, end = self._part(offset)
        if flag == _WHOLE:
            return payload, end
        if flag != _FIRST:
            raise CorruptRecordError(f"{self.path}: offset {offset}: a record starts with its part {flag}")
        parts = [payload]
        while flag != _LAST:
            here = end
            flag, payload, end = self._part(here)
            if flag not in (_MIDDLE, _LAST):
                raise CorruptRecordError(
                    f"{self.path}: offset {here}: the record at {offset} is not finished, and another starts"
                )
            parts.append(payload)
        return _MAGIC_BYTES.join(parts), end


def _read_index(path: Path, size: int) -> Index:
    """Read a well-formed index at once; anything else line by line, which names the line that is wrong."""
    text = path.read_bytes()
    if not text.strip():
        raise PocketNetError(f"{path} is empty; without it, the index is made anew from the records")
    characters = np.frombuffer(text, np.uint8)
    separators = characters[characters <= ord("\n")]
    lines = len(separators) // 2
    numbers = ((characters >= ord("0")) & (characters <= ord("9"))).sum() + 2 * lines == len(characters)
    tabs, ends = separators[: 2 * lines : 2], separators[1 : 2 * lines : 2]
    if lines and numbers and (tabs == ord("\t")).all() and (ends == ord("\n")).all():
        values = np.fromstring(text, np.int64, sep=" ")  # any white space
        if len(values) == 2 * lines:
            index = values.reshape(-1, 2)
            keys, offsets = index.T
            once = (np.diff(np.sort(keys)) > 0).all()
            if keys.max() <= _MAX_KEY and offsets.max() < size and not (offsets % 4).any() and once:
                return index
    return _read_index_lines(path, size)


def _read_index_lines(path: Path, size: int) -> Index:
    offsets: dict[int, int] = {}
    with path.open(encoding="ascii", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            fields = line.split()
            if len(fields) != 2 or not all(field.isdigit() and len(field) <= _DIGITS for field in fields):
                raise PocketNetError(
                    f"{path}: line {number} is {line.strip()!r:.80}; expected a key and an offset"
                )
            key, offset = int(fields[0]), int(fields[1])
            if offset >= size or offset % 4:
                raise PocketNetError(
                    f"{path}: line {number}: offset {offset} is not in a file of {size} bytes"
                )
            if key > _MAX_KEY:
                raise PocketNetError(f"{path}: line {number}: key {key} is larger than {_MAX_KEY}")
            if key in offsets:
                raise PocketNetError(f"{path}: line {number}: key {key} stands twice")
            offsets[key] = offset
    return np.array([*offsets.items()], np.int64).reshape(-1, 2)


class RecordWriter:
    """Writes a ``.rec`` file and its ``.idx`` beside it; both appear when the ``with`` block ends well.

    Args:
        path: The ``.rec`` file.

    Raises:
        PocketNetError: The files cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._stack = contextlib.ExitStack()
        self._records: BinaryIO | None = None
        self._index: BinaryIO | None = None
        self._keys: set[int] = set()
        self._offset = 0

    def __enter__(self) -> RecordWriter:
        # Left in reverse order: the index appears after the records that it points to.
        self._index = self._stack.enter_context(atomic_write(self.path.with_suffix(".idx")))
        self._records = self._stack.enter_context(atomic_write(self.path))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def write(self, key: int, payload: bytes) -> None:
        """Append a record.

        Raises:
            PocketNetError: The key was written already or a part of the payload is longer than 2**29 - 1.
            RuntimeError: Outside the ``with`` block.
        """
        if self._records is None or self._index is None:
            raise RuntimeError("a RecordWriter writes inside its with block")
        if key < 0 or key in self._keys:
            raise PocketNetError(f"{self.path}: key {key} is negative or written already")
        parts = _split(payload)
        if max(map(len, parts)) > _MAX_LENGTH:
            raise PocketNetError(f"{self.path}: the record of key {key} is too long")
        self._keys.add(key)
        self._index.write(f"{key}\t{self._offset}\n".encode())
        for number, part in enumerate(parts):
            flag = _WHOLE
            if len(parts) > 1:
                flag = _FIRST if number == 0 else _LAST if number == len(parts) - 1 else _MIDDLE
            header = struct.pack("<II", _MAGIC, flag << _LENGTH_BITS | len(part))
            padding = bytes(-len(part) % 4)
            self._records.write(header + part + padding)
            self._offset += len(header) + len(part) + len(padding)


def _split(payload: bytes) -> list[bytes]:
    """The parts between the magics that stand at multiples of 4 bytes."""
    parts = []
    begin = 0
    at = payload.find(_MAGIC_BYTES)
    while at >= 0:
        if at % 4 == 0:
            parts.append(payload[begin:at])
            begin = at + 4
            at = payload.find(_MAGIC_BYTES, begin)
        else:
            at = payload.find(_MAGIC_BYTES, at + 1)
    return [*parts, payload[begin:]]


@dataclass(frozen=True)
class ImageRecord:
    """An encoded image and its labels.

    Attributes:
        labels: float32, one or more; the first is the identity.
        image: JPEG, PNG, ... as stored.
        id: The record's own number.
        id2: A second one, usually 0.
    """

    labels: Labels
    image: bytes
    id: int = 0
    id2: int = 0


def unpack_image(payload: bytes, where: str = "record") -> ImageRecord:
    """Take an image record apart.

    Args:
        payload: The payload of a record.
        where: How to name it in an error.

    Raises:
        CorruptRecordError: The payload is too short for what its header states.
    """
    if len(payload) < _IMAGE_HEADER.size:
        raise CorruptRecordError(f"{where}: {len(payload)} bytes are too few for an image record")
    count, label, number, second = _IMAGE_HEADER.unpack_from(payload)
    begin = _IMAGE_HEADER.size + 4 * count
    if begin > len(payload):
        raise CorruptRecordError(f"{where}: {count} labels do not fit into {len(payload)} bytes")
    if count == 0:
        labels = np.array([label], np.float32)
    else:
        labels = np.frombuffer(payload, "<f4", count, _IMAGE_HEADER.size).astype(np.float32)
    return ImageRecord(labels, payload[begin:], number, second)


def pack_image(record: ImageRecord) -> bytes:
    """Build the payload of an image record; the inverse of ``unpack_image``."""
    labels = np.asarray(record.labels, "<f4").reshape(-1)
    if labels.size == 1:
        return _IMAGE_HEADER.pack(0, float(labels[0]), record.id, record.id2) + record.image
    header = _IMAGE_HEADER.pack(labels.size, 0.0, record.id, record.id2)
    return header + labels.tobytes() + record.image


def image_index(file: RecordFile) -> Index:
    """Index of the image records of a dataset: what record 0 says, or every record if it is an image itself.

    Returns:
        int64, N x 2: keys and offsets, by ascending key where record 0 names them, else in the index's order.

    Raises:
        CorruptRecordError: Record 0 is damaged or names keys that the file lacks.
    """
    if 0 not in file:
        return file.index
    head = unpack_image(file.read(0), f"{file.path}: record 0")
    if head.image or head.labels.size < 2:
        return file.index
    by_key = file.index[np.argsort(file.index[:, 0])]
    stated = float(head.labels[0])
    if not (stated.is_integer() and 0 <= stated < 1 << 62):
        raise CorruptRecordError(
            f"{file.path}: record 0 announces keys up to {stated:g}; expected a whole number from 0"
        )
    end = int(stated)
    found = by_key[(by_key[:, 0] >= 1) & (by_key[:, 0] < end)]
    if len(found) != max(end - 1, 0):
        # Keys are counted from 1 and stand once, so the first that is not its own place comes after a gap.
        gaps = np.flatnonzero(found[:, 0] != np.arange(1, len(found) + 1))
        missing = (int(gaps[0]) if len(gaps) else len(found)) + 1
        raise CorruptRecordError(
            f"{file.path}: record 0 announces the keys 1 to {end - 1}, and key {missing} is missing"
        )
    return found


def image_keys(file: RecordFile) -> tuple[int, ...]:
    """Keys of the image records of a dataset: see ``image_index``."""
    return tuple(image_index(file)[:, 0].tolist())


def read_labels(file: RecordFile, offsets: npt.NDArray[np.int64]) -> Labels:
    """Return the first label of each image record, reading the headers alone.

    Args:
        file: The records.
        offsets: Where the records start, in bytes.

    Returns:
        float32, one per offset.

    Raises:
        CorruptRecordError: No image record starts at one of them.
    """
    if offsets.size == 0:
        return np.zeros(0, np.float32)
    size = file.path.stat().st_size
    words = np.memmap(file.path, "<u4", mode="r", shape=(size // 4,))
    # Magic and length, then flag, label, id and id2 (6 words), then as many labels as the flag says.
    start = offsets // 4
    inside = start + 9 <= len(words)
    header = np.zeros((len(offsets), 4), np.int64)
    for column in range(4):
        header[inside, column] = words[start[inside] + column]
    magic, length, flag, label = header.T
    labels = label.astype(np.uint32).view(np.float32)
    several = inside & (flag > 0)
    labels[several] = words[start[several] + 8].view(np.float32)
    # What is no record of one part with all that it states is read in the ordinary way, which says what is
    # wrong with it, if anything.
    plain = inside & (offsets % 4 == 0) & (magic == _MAGIC) & (length <= _MAX_LENGTH)
    plain &= (offsets + 8 + length <= size) & (_IMAGE_HEADER.size + 4 * flag <= length)
    for number in np.flatnonzero(~plain):
        offset = int(offsets[number])
        record = unpack_image(file.read_at(offset), f"{file.path}: offset {offset}")
        labels[number] = record.labels[0]
    return labels
