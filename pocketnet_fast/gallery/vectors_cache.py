"""The vectors of a gallery in a file that is mapped: made from the database, and thrown away at any time.

``people.gallery-vectors`` begins with a page of facts and goes on with three arrays, each from a page's
border: the ids of the faces, rising (int64); their people (int64); their embeddings (float32, N x D). All
numbers are little-endian. The facts say of which state of which gallery it is and carry the checksums of the
arrays; their own checksum and the file's size are compared whenever it is opened, the others by ``check``.

A file is never changed: a new one is written beside it and renamed, so whoever has mapped the old one reads
on.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import secrets
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Embeddings = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

_MAGIC: Final = b"PNFVEC1\n"
# uuid; number and mark of the newest change; rows; dimensions; checksums of ids, people, embeddings.
_FACTS: Final = struct.Struct("<8s36s4xqqQQIII")
_PAGE: Final = 4096
_CHUNK: Final = 1 << 24
_PAUSE: Final = 0.01


@dataclass(frozen=True)
class State:
    """One state of one gallery; two that are equal have the same content.

    Attributes:
        uuid: The uuid of the gallery.
        number: The number of its newest change; 0 if there was none.
        mark: A mark of that change, random: it tells a gallery that was restored and changed in another way.
    """

    uuid: str
    number: int
    mark: int


@dataclass(frozen=True, eq=False)
class CachedVectors:
    """The faces of one state.

    Attributes:
        state: Which.
        ids: N, rising.
        people: N.
        rows: N x D, of length 1.
        mapped: Whether they lie in a file.
    """

    state: State
    ids: Ids
    people: Ids
    rows: Embeddings
    mapped: bool


def cache_path(gallery: Path) -> Path:
    """Where the cache of a gallery lies."""
    return gallery.with_name(f"{gallery.name}-vectors")


def lock_path(gallery: Path) -> Path:
    """The file whose lock those hold who write caches; only who holds it may remove it."""
    return gallery.with_name(f"{gallery.name}-lock")


def remove_cache(gallery: Path) -> None:
    """Remove the cache, and what killed writers left; the lock must be held.

    Raises:
        OSError: A file cannot be removed.
    """
    path = cache_path(gallery)
    for file in (path, *_temporaries(path)):
        file.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(gallery: Path, timeout: float) -> Iterator[bool]:
    """Hold the lock of those who write caches, or empty a gallery of what was erased.

    Args:
        gallery: Whose.
        timeout: Seconds to wait for it.

    Yields:
        Whether it is held; False if others held it all the time.

    Raises:
        OSError: The lock's file cannot be made.
    """
    path = lock_path(gallery)
    deadline = time.monotonic() + timeout
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            # The kernel lets go of it when the process ends, however it ends.
            held = _flock(descriptor, deadline)
            if held and not _is_at(descriptor, path):
                continue  # it was removed by who held it before
            yield held
            return
        finally:
            os.close(descriptor)


def read_cache(gallery: Path, dimensions: int, uuid: str) -> CachedVectors | None:
    """Map the cache of a gallery; None if there is none, or it is damaged or another gallery's.

    Args:
        gallery: Whose.
        dimensions: The dimensions of its embeddings.
        uuid: The uuid of the gallery.
    """
    try:
        return _mapped(cache_path(gallery), dimensions, uuid)[0]
    except (OSError, ValueError):
        return None


def damage_of_cache(
    gallery: Path, dimensions: int, uuid: str, on_bytes: Callable[[int], None] = lambda _: None
) -> str | None:
    """Read a whole cache and compare it with its checksums.

    Args:
        gallery: Whose.
        dimensions: The dimensions of its embeddings.
        uuid: The uuid of the gallery.
        on_bytes: Called with the number of bytes that were read, for progress.

    Returns:
        What is wrong with it, or None; None, too, where there is none.
    """
    try:
        cached, sums = _mapped(cache_path(gallery), dimensions, uuid)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return str(error)
    arrays: list[tuple[str, npt.NDArray[Any]]] = [
        ("ids", cached.ids),
        ("people", cached.people),
        ("embeddings", cached.rows),
    ]
    for (name, array), stated in zip(arrays, sums, strict=True):
        if _crc(array, on_bytes) != stated:
            return f"the checksum of its {name} does not match"
    return None


def write_cache(
    gallery: Path, state: State, ids: Ids, people: Ids, rows: Iterable[Embeddings], dimensions: int
) -> None:
    """Replace the cache of a gallery; the lock must be held since before the state was read.

    Args:
        gallery: Whose.
        state: Which state the arrays are of.
        ids: N, rising.
        people: N.
        rows: N x D in consecutive parts.
        dimensions: D.

    Raises:
        OSError: It cannot be written; the old one stays.
    """
    path = cache_path(gallery)
    for left in _temporaries(path):
        left.unlink(missing_ok=True)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(6)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        try:
            at, sums = _PAGE, []
            for parts in ([ids], [people], rows):
                crc = 0
                for part in parts:
                    data = _bytes(part)
                    crc = zlib.crc32(data, crc)
                    at = _write(descriptor, at, data)
                sums.append(crc)
                at = _border(at)
            os.ftruncate(descriptor, at)
            facts = _FACTS.pack(
                _MAGIC, state.uuid.encode(), state.number, state.mark, len(ids), dimensions, *sums
            )
            head = facts + struct.pack("<I", zlib.crc32(facts))
            _write(descriptor, 0, head.ljust(_PAGE, b"\0"))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _mapped(path: Path, dimensions: int, uuid: str) -> tuple[CachedVectors, tuple[int, ...]]:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(_PAGE)
        if len(head) != _PAGE:
            raise ValueError("it is truncated")
        facts = head[: _FACTS.size]
        (stated,) = struct.unpack_from("<I", head, _FACTS.size)
        if zlib.crc32(facts) != stated:
            raise ValueError("its first page is damaged")
        magic, of, number, mark, count, width, *sums = _FACTS.unpack(facts)
        if magic != _MAGIC:
            raise ValueError("it is of another version")
        if of != uuid.encode() or width != dimensions:
            raise ValueError("it is of another gallery")
        ids_at = _PAGE
        people_at = _border(ids_at + 8 * count)
        rows_at = _border(people_at + 8 * count)
        if size != _border(rows_at + 4 * width * count):
            raise ValueError(f"it has {size} bytes, which do not fit the {count} faces that it states")
        # Copy on write: PyTorch warns of arrays that cannot be written, and the file must stay as it is.
        content = mmap.mmap(
            file.fileno(), size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE
        )
    ids = np.frombuffer(content, "<i8", count, ids_at)
    if count and not (ids[0] > 0 and bool((ids[1:] > ids[:-1]).all())):
        raise ValueError("its ids are not in order")
    people = np.frombuffer(content, "<i8", count, people_at)
    rows = np.frombuffer(content, "<f4", count * width, rows_at).reshape(count, width)
    state = State(uuid, number, mark)
    return CachedVectors(state, ids, people, rows, mapped=True), tuple(sums)


def _flock(descriptor: int, deadline: float) -> bool:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_PAUSE)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    mine = os.fstat(descriptor)
    return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)


def _temporaries(path: Path) -> list[Path]:
    return [file for file in path.parent.iterdir() if _is_temporary(file.name, path.name)]


def _is_temporary(name: str, of: str) -> bool:
    return name.startswith(f"{of}.") and name.endswith(".tmp")


def _border(at: int) -> int:
    return -(-at // _PAGE) * _PAGE


def _bytes(array: npt.NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _write(descriptor: int, at: int, data: bytes | memoryview) -> int:
    left = memoryview(data)
    while left:
        written = os.pwrite(descriptor, left[:_CHUNK], at)
        left, at = left[written:], at + written
    return at


def _crc(array: npt.NDArray[Any], on_bytes: Callable[[int], None]) -> int:
    crc = 0
    data = _bytes(array)
    for first in range(0, len(data), _CHUNK):
        part = data[first : first + _CHUNK]
        crc = zlib.crc32(part, crc)
        on_bytes(len(part))
    return crc
