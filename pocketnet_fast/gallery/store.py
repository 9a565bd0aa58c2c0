"""A gallery on disk: a folder with embeddings, names, and a manifest that says how much of them counts.

``manifest.json`` is the commit: it is replaced in one step, and states how many rows and bytes of the data
files belong to the gallery and their checksums. Data files only grow, so a writer that is killed leaves bytes
behind the stated end, which readers ignore and the next writer cuts off. The data files are

- ``embeddings-*.f32``: N x D float32, little-endian, rows of length 1;
- ``entries-*.txt``: for each row a line with the name and a line with the source, UTF-8;
- ``ends-*.u64``: N uint64, little-endian: where the two lines of each row end.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.gallery.manifest import (
    MANIFEST,
    PARTS,
    EmbeddingSpace,
    Index,
    Manifest,
    read_manifest,
    write_manifest,
)
from pocketnet_fast.gallery.scoring import top_matches

Embeddings = npt.NDArray[np.float32]

_LOCK: Final = "lock"
_CHUNK: Final = 1 << 24
# float32 rounding of a row's length is below 1e-6; anything further off was not written by ``add``.
_LENGTH_TOLERANCE: Final = 1e-4


@dataclass(frozen=True)
class Match:
    """A gallery row found for a query.

    Attributes:
        name: Who it is.
        source: The photo it was made of, as it was given; may be empty.
        score: Cosine similarity.
        row: Its place in the gallery.
    """

    name: str
    source: str
    score: float
    row: int


class Gallery:
    """Embeddings with names, on disk; ``create`` makes one, the constructor opens one.

    The embeddings are mapped, not read, so that opening takes no time and processes share the memory. An open
    gallery shows what was there when it was opened, and what it added itself.

    Args:
        path: The gallery's folder.

    Attributes:
        path: The gallery's folder.
        space: Which embeddings it holds.
        index: Its search index, or None.
        name_by: How names were made of photos; empty if it is not known.

    Raises:
        PocketNetError: No gallery, or the manifest or a data file is damaged; the message names the file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._open()

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], space: EmbeddingSpace, *, overwrite: bool = False
    ) -> Gallery:
        """Make an empty gallery, and its folder if need be.

        Args:
            path: The folder: new, empty, or with ``overwrite`` one that holds a gallery.
            space: Which embeddings it will hold.
            overwrite: Replace a gallery that is there, in one step.

        Raises:
            PocketNetError: The folder holds a gallery or other files, or cannot be written.
        """
        with cls.building(path, space, overwrite=overwrite) as add:
            add([], np.zeros((0, space.dimensions), np.float32))
        return cls(path)

    @classmethod
    @contextlib.contextmanager
    def building(
        cls,
        path: str | os.PathLike[str],
        space: EmbeddingSpace,
        *,
        overwrite: bool = False,
        name_by: str = "",
    ) -> Iterator[Callable[..., None]]:
        """Build a gallery that appears when the block ends without an exception.

        Yields what adds to it, with the arguments and errors of ``add``; see ``create`` for the rest.
        ``name_by`` is kept for those who add photos later.
        """
        folder = Path(path)
        _make_folder(folder, overwrite)
        token = secrets.token_hex(4)
        files = {part: f"{part}-{token}{suffix}" for part, suffix in PARTS.items()}
        empty = Manifest(space, 0, dict.fromkeys(PARTS, 0), dict.fromkeys(PARTS, 0), files, None, name_by)
        with _locked(folder):
            try:
                with _Writer(folder, empty) as writer:
                    yield writer.append
            except BaseException:
                for name in files.values():
                    (folder / name).unlink(missing_ok=True)
                if not (folder / MANIFEST).exists():
                    (folder / _LOCK).unlink(missing_ok=True)
                    with contextlib.suppress(OSError):
                        folder.rmdir()
                raise
            for old in folder.iterdir():
                if _is_ours(old.name) and old.name not in (MANIFEST, _LOCK, *files.values()):
                    old.unlink(missing_ok=True)

    def __len__(self) -> int:
        return self._manifest.rows

    @property
    def embeddings(self) -> Embeddings:
        """N x D float32 of length 1, mapped from the file; writing to them changes no file."""
        return self._embeddings

    def add(
        self, names: Sequence[str], embeddings: npt.ArrayLike, sources: Sequence[str] | None = None
    ) -> None:
        """Append rows: all of them, or after an error or a kill none.

        Args:
            names: N names, of any length but without line breaks; they may repeat.
            embeddings: N x D, of any length but 0; normalised here.
            sources: N descriptions of where each comes from; default: empty.

        Raises:
            PocketNetError: The numbers or dimensions do not fit, an embedding is not finite or zero, a name
                is empty or has a line break, or another process is writing to the gallery.
        """
        with self.adding() as append:
            append(names, embeddings, sources)

    @contextlib.contextmanager
    def adding(self) -> Iterator[Callable[..., None]]:
        """Append in parts; yields what ``add`` is called with, and commits them together at the end.

        Raises:
            PocketNetError: See ``add``.
        """
        with _locked(self.path):
            manifest = read_manifest(self.path)
            manifest.space.require_same(self.space, self.path)
            with _Writer(self.path, manifest) as writer:
                yield writer.append
        self._open()

    def name(self, row: int) -> tuple[str, str]:
        """Name and source of a row.

        Raises:
            PocketNetError: There is no such row, or the entry is damaged.
        """
        if not 0 <= row < len(self):
            raise PocketNetError(f"{self.path} has the rows 0 to {len(self) - 1}, not {row}")
        start = int(self._ends[row - 1]) if row else 0
        end = int(self._ends[row])
        path = self._file("entries")
        if not start < end <= self._manifest.bytes["entries"]:
            raise PocketNetError(
                f"{self._file('ends')}: damaged: the entry of row {row} lies from byte {start} to {end}"
            )
        try:
            with path.open("rb") as file:
                file.seek(start)
                lines = file.read(end - start).decode().split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise PocketNetError(f"{path}: damaged at byte {start}: {error}") from None
        if len(lines) != 3 or lines[2]:
            raise PocketNetError(
                f"{path}: damaged at byte {start}: expected a name and a source, line by line"
            )
        return lines[0], lines[1]

    def search(
        self,
        queries: npt.ArrayLike,
        *,
        top: int = 5,
        threshold: float | None = None,
        threads: int | None = None,
    ) -> list[list[Match]]:
        """Find the rows most similar to each query, by exact search.

        Args:
            queries: Q x D embeddings of any length but 0, of the gallery's space (see ``EmbeddingSpace``).
            top: How many at most.
            threshold: The least cosine similarity; None for no limit.
            threads: Threads; None for as many as PyTorch uses.

        Returns:
            For each query its matches, best first; equal ones in the order of their rows.

        Raises:
            PocketNetError: ``top`` is not positive, the queries do not fit, or a row is damaged.
        """
        unit = unit_rows(queries, self.space.dimensions)
        scores, rows = top_matches(unit, self.embeddings, top, threads=threads)
        return self.named(scores, rows, threshold)

    def named(
        self, scores: npt.NDArray[np.float32], rows: npt.NDArray[np.int64], threshold: float | None
    ) -> list[list[Match]]:
        """Give rows found by a search their names; rows below 0 are left out.

        Args:
            scores: Q x K cosines, falling.
            rows: Q x K.
            threshold: The least score; None for no limit.

        Raises:
            PocketNetError: An entry is damaged.
        """
        least = -np.inf if threshold is None else threshold
        return [
            [
                # Rounding makes the cosine of equal embeddings up to 1e-6 more than 1.
                Match(*self.name(int(row)), float(np.clip(score, -1, 1)), int(row))
                for score, row in zip(*found, strict=True)
                if row >= 0 and score >= least
            ]
            for found in zip(scores, rows, strict=True)
        ]

    def verify(self, on_rows: Callable[[int], None] | None = None) -> None:
        """Read everything and compare it with the checksums.

        Args:
            on_rows: Called with the number of rows checked, for progress.

        Raises:
            PocketNetError: Damage; the message names the file, and the row and offset where they are known.
        """
        step = max(_CHUNK // (4 * self.space.dimensions), 1)
        crc = 0
        for first in range(0, len(self), step):
            part = np.ascontiguousarray(self.embeddings[first : first + step])
            crc = zlib.crc32(part.view(np.uint8).data, crc)
            with np.errstate(over="ignore", invalid="ignore"):
                off = np.abs(np.linalg.norm(part, axis=1) - 1)
            wrong = np.flatnonzero(~(off <= _LENGTH_TOLERANCE))
            if len(wrong):
                row = first + int(wrong[0])
                at = 4 * self.space.dimensions * row
                raise PocketNetError(
                    f"{self._file('embeddings')}: damaged: row {row} (byte {at}) has no length of 1"
                )
            if on_rows is not None:
                on_rows(len(part))
        sums = {"embeddings": crc}
        for part_name in ("entries", "ends"):
            sums[part_name] = file_crc(self._file(part_name), self._manifest.bytes[part_name])
        for part_name, found in sums.items():
            if found != self._manifest.crc32[part_name]:
                raise PocketNetError(f"{self._file(part_name)}: damaged: its checksum does not match")

    def bytes_on_disk(self) -> int:
        """Size of the data that belongs to the gallery, without index and manifest."""
        return sum(self._manifest.bytes.values())

    def set_index(self, index: Index) -> None:
        """Record an index file that lies in the gallery's folder; an older one is removed.

        Raises:
            PocketNetError: The manifest cannot be written, or another process is writing to the gallery.
        """
        with _locked(self.path):
            manifest = read_manifest(self.path)
            write_manifest(self.path, replace(manifest, index=index))
            if manifest.index is not None and manifest.index.file != index.file:
                (self.path / manifest.index.file).unlink(missing_ok=True)
        self._open()

    def _file(self, part: str) -> Path:
        return self.path / self._manifest.files[part]

    def _open(self) -> None:
        self._manifest = read_manifest(self.path)
        self.space = self._manifest.space
        self.index = self._manifest.index
        self.name_by = self._manifest.name_by
        rows, dimensions = self._manifest.rows, self.space.dimensions
        self._embeddings: Embeddings = self._mapped("embeddings", "<f4", (rows, dimensions))
        self._ends: npt.NDArray[np.uint64] = self._mapped("ends", "<u8", (rows,))
        if rows and int(self._ends[-1]) != self._manifest.bytes["entries"]:
            raise PocketNetError(
                f"{self._file('ends')}: damaged: the last entry ends at byte {int(self._ends[-1])}, not "
                f"{self._manifest.bytes['entries']}"
            )

    def _mapped(self, part: str, dtype: str, shape: tuple[int, ...]) -> Any:
        if 0 in shape:
            return np.zeros(shape, dtype)
        # Copy on write: PyTorch warns of arrays that cannot be written, and the file must stay as it is.
        return np.memmap(self._file(part), dtype=dtype, mode="c", shape=shape)


class _Writer:
    """Appends to the data files; leaving the block without an exception commits."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._folder = folder
        self._manifest = manifest
        self._streams: dict[str, BinaryIO] = {}

    def __enter__(self) -> _Writer:
        for part, name in self._manifest.files.items():
            path = self._folder / name
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
                stream = self._streams[part] = os.fdopen(descriptor, "r+b")
                stream.truncate(self._manifest.bytes[part])
                stream.seek(0, os.SEEK_END)
            except OSError as error:
                self._close()
                raise PocketNetError(f"cannot write {path}: {error.strerror}") from None
        return self

    def append(
        self, names: Sequence[str], embeddings: npt.ArrayLike, sources: Sequence[str] | None = None
    ) -> None:
        unit = unit_rows(embeddings, self._manifest.space.dimensions, sources or names)
        origins = sources if sources is not None else [""] * len(names)
        if not len(names) == len(origins) == len(unit):
            raise PocketNetError(
                f"{len(names)} names and {len(origins)} sources do not belong to {len(unit)} embeddings"
            )
        for name in names:
            if not name or "\n" in name:
                raise PocketNetError(f"{name!r} is no name; expected text without line breaks")
        for origin in origins:
            if "\n" in origin:
                raise PocketNetError(f"{origin!r} has a line break, which a gallery cannot store")
        entries = [
            f"{name}\n{origin}\n".encode(errors="replace")
            for name, origin in zip(names, origins, strict=True)
        ]
        lengths = np.array([len(entry) for entry in entries], "<u8")
        ends = np.cumsum(lengths, dtype="<u8") + np.uint64(self._manifest.bytes["entries"])
        content: dict[str, Any] = {
            "embeddings": unit.astype("<f4", copy=False).reshape(-1).view(np.uint8),
            "entries": b"".join(entries),
            "ends": ends.view(np.uint8),
        }
        sizes, sums = dict(self._manifest.bytes), dict(self._manifest.crc32)
        for part, data in content.items():
            with self._writing(part):
                self._streams[part].write(data)
            sizes[part] += len(data)
            sums[part] = zlib.crc32(data, sums[part])
        self._manifest = replace(
            self._manifest, rows=self._manifest.rows + len(unit), bytes=sizes, crc32=sums
        )

    @contextlib.contextmanager
    def _writing(self, part: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            path = self._folder / self._manifest.files[part]
            raise PocketNetError(f"cannot write {path}: {error.strerror}") from None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                for part, stream in self._streams.items():
                    with self._writing(part):
                        stream.flush()
                        os.fsync(stream.fileno())
        finally:
            self._close()
        if kind is None:
            write_manifest(self._folder, self._manifest)

    def _close(self) -> None:
        # What a full disk does not take was refused before, and is no part of the gallery.
        for stream in self._streams.values():
            with contextlib.suppress(OSError):
                stream.close()


def unit_rows(embeddings: npt.ArrayLike, dimensions: int, labels: Sequence[str] | None = None) -> Embeddings:
    """Scale embeddings to length 1.

    Args:
        embeddings: N x D.
        dimensions: D.
        labels: How errors call the rows; None for their numbers.

    Returns:
        N x D float32.

    Raises:
        PocketNetError: Another shape, or a row that is not finite or is zero.
    """
    rows = np.asarray(embeddings, np.float32)
    if rows.ndim != 2 or rows.shape[1] != dimensions:
        raise PocketNetError(f"expected embeddings N x {dimensions}, got {rows.shape}")
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))[:, None]
    wrong = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(wrong):
        row = int(wrong[0])
        label = labels[row] if labels is not None and row < len(labels) else f"row {row}"
        raise PocketNetError(f"the embedding of {label} is not finite, or zero")
    return np.asarray(rows / lengths, np.float32)


def _is_ours(name: str) -> bool:
    stem, dash, _ = name.partition("-")
    known = name in (MANIFEST, _LOCK) or (bool(dash) and stem in (*PARTS, "index"))
    return known or (name.startswith(".pocketnet-") and name.endswith(".tmp"))


def _make_folder(folder: Path, overwrite: bool) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = [entry.name for entry in folder.iterdir()]
    except OSError as error:
        raise PocketNetError(f"cannot write the gallery {folder}: {error.strerror}") from None
    foreign = sorted(name for name in held if not _is_ours(name))
    if foreign:
        raise PocketNetError(
            f"{folder} holds other files ({foreign[0]}); a gallery needs a folder of its own"
        )
    if MANIFEST in held and not overwrite:
        raise PocketNetError(f"{folder} already holds a gallery; add to it, or overwrite it")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    path = folder / _LOCK
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
    except OSError as error:
        raise PocketNetError(f"cannot write {path}: {error.strerror}") from None
    try:
        try:
            # The kernel lets go of it when the process ends, however it ends.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise PocketNetError(f"{folder}: another process is writing to this gallery") from None
        yield
    finally:
        os.close(descriptor)


def file_crc(path: Path, size: int) -> int:
    """CRC-32 of a file's first ``size`` bytes."""
    crc = 0
    with path.open("rb") as file:
        while size > 0:
            data = file.read(min(size, _CHUNK))
            if not data:
                break
            crc = zlib.crc32(data, crc)
            size -= len(data)
    return crc
