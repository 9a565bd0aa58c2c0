"""The vectors of an open gallery: those of the mapped cache, and what has changed since it was written."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.gallery.database import Database
from pocketnet_fast.gallery.quantized import QuantizedRows
from pocketnet_fast.gallery.space import EmbeddingSpace
from pocketnet_fast.gallery.vectors_cache import (
    CachedVectors,
    Embeddings,
    Ids,
    State,
    locked,
    read_cache,
    write_cache,
)

# Faces that are read from the database at each opening rather than from a file: it takes milliseconds.
_WITHOUT_FILE: Final = 1024
# The cache is written anew when this part of its faces has changed.
_CHANGED_PART: Final = 8
_BATCH: Final = 8192
# Seconds until a cache that could not be written is tried again.
_RETRY: Final = 60.0


@dataclass(frozen=True, eq=False)
class Vectors:
    """The faces of one state. A row is a number: that of the base first, then those added since.

    Attributes:
        state: Which.
        base: What the cache held.
        ids: The faces added since, rising; all are above those of the base.
        people: Whose they are.
        rows: Their embeddings.
        changed: Rows whose face went to another person or is gone, rising.
        owners: Whose these are now; -1 where they are gone.
        grown: What the arrays of added faces are the beginning of.
    """

    state: State
    base: CachedVectors
    ids: Ids
    people: Ids
    rows: Embeddings
    changed: Ids
    owners: Ids
    grown: _Growing

    def __len__(self) -> int:
        return len(self.base.ids) + len(self.ids) - int(np.count_nonzero(self.owners < 0))

    @property
    def parts(self) -> list[tuple[int, Embeddings]]:
        """The embeddings, with the number of the first row of each part."""
        return [(0, self.base.rows), (len(self.base.ids), self.rows)]

    @property
    def stale(self) -> int:
        """How many faces the base lacks, or has too many."""
        return len(self.ids) + int(np.count_nonzero(self.owners < 0))

    def people_of(self, rows: Ids) -> Ids:
        """Whose rows are; -1 where they are gone."""
        found = self._taken(rows, self.base.people, self.people)
        if len(self.changed):
            at = np.minimum(np.searchsorted(self.changed, rows), len(self.changed) - 1)
            found = np.where(self.changed[at] == rows, self.owners[at], found)
        return found

    def rows_that_are(self, rows: Ids) -> Ids:
        """The rows themselves; -1 where they are gone."""
        return np.where(self.people_of(rows) >= 0, rows, -1)

    def faces_of(self, rows: Ids) -> Ids:
        """The ids of rows."""
        return self._taken(rows, self.base.ids, self.ids)

    def row_of(self, faces: Ids) -> Ids:
        """The rows of faces; -1 for those that are not among them."""
        found = np.full(len(faces), -1, np.int64)
        for first, ids in ((0, self.base.ids), (len(self.base.ids), self.ids)):
            if len(ids):
                at = np.minimum(np.searchsorted(ids, faces), len(ids) - 1)
                found = np.where(ids[at] == faces, first + at, found)
        return found

    def living(self, first: int, count: int) -> Ids:
        """Which of the rows from ``first`` on are there."""
        rows = np.arange(first, first + count)
        return rows[self.people_of(rows) >= 0]

    def _taken(self, rows: Ids, base: Ids, added: Ids) -> Ids:
        if len(added) == 0:
            return base[rows]
        if len(base) == 0:
            return added[rows]
        split = len(base)
        late = rows >= split
        return np.where(late, added[np.where(late, rows - split, 0)], base[np.where(late, 0, rows)])


class VectorsOfGallery:
    """The vectors of a gallery that is open, as new as each answer.

    Args:
        database: The database of the gallery.
        space: The space of its embeddings.

    Attributes:
        problem: Why no cache could be written, or None.
    """

    def __init__(self, database: Database, space: EmbeddingSpace) -> None:
        self.problem: str | None = None
        self._database = database
        self._space = space
        self._lock = threading.Lock()
        self._local = threading.local()
        self._newest: Vectors | None = None
        self._retry_at = 0.0
        self._quantizing = threading.Lock()
        self._quantized: tuple[CachedVectors, QuantizedRows] | None = None

    @contextlib.contextmanager
    def reading(self) -> Iterator[tuple[sqlite3.Connection, Vectors]]:
        """A connection within a read transaction, and the vectors of just that state.

        Within another it is the same, or the newest if that one is of the database alone.

        Raises:
            PocketNetError: The database is damaged or cannot be read, or the gallery was replaced by one of
                another space.
        """
        with contextlib.ExitStack() as stack:
            # The transaction begins under the lock, so that its state is never older than the newest vectors.
            with self._lock:
                connection = stack.enter_context(self._database.reading())
                vectors = getattr(self._local, "vectors", None)
                nested = vectors is not None
                if vectors is None:
                    vectors = self._newest = self._refreshed(connection)
            if not nested:
                self._local.vectors = vectors
                stack.callback(setattr, self._local, "vectors", None)
            yield connection, vectors
        if not nested and self._wants_cache(vectors):
            self._renew_cache()

    def quantized(self, vectors: Vectors) -> QuantizedRows:
        """The base of the vectors in bytes, made when it is first asked for.

        Raises:
            PocketNetError: NumKong is not installed.
        """
        with self._quantizing:
            of, made = self._quantized or (None, None)
            if made is None or of is not vectors.base:
                made = QuantizedRows(vectors.base.rows, vectors.base.people)
                self._quantized = vectors.base, made
            return made

    def _refreshed(self, connection: sqlite3.Connection) -> Vectors:
        state = newest_state(connection, self._space, self._database.path)
        newest = self._newest
        if newest is not None and newest.state == state:
            return newest
        if newest is None or not _is_known(connection, newest.state, state):
            newest = self._from_cache(connection, state) or self._from_database(connection, state)
        return self._advanced(connection, newest, state)

    def _from_cache(self, connection: sqlite3.Connection, state: State) -> Vectors | None:
        cached = read_cache(self._database.path, self._space.dimensions, state.uuid)
        if cached is None or not _is_known(connection, cached.state, state):
            return None
        return self._begun(cached)

    def _from_database(self, connection: sqlite3.Connection, state: State) -> Vectors:
        ids, people, rows = [], [], []
        cursor = connection.execute("SELECT id, person, embedding FROM face ORDER BY id")
        while batch := cursor.fetchmany(_BATCH):
            part = np.array([row[:2] for row in batch], np.int64)
            ids.append(part[:, 0])
            people.append(part[:, 1])
            rows.append(self._unpacked([row[2] for row in batch], part[:, 0]))
        empty, none = np.zeros(0, np.int64), np.zeros((0, self._space.dimensions), np.float32)
        whole = CachedVectors(
            state,
            np.concatenate([empty, *ids]),
            np.concatenate([empty, *people]),
            np.concatenate([none, *rows]),
            mapped=False,
        )
        return self._begun(whole)

    def _begun(self, base: CachedVectors) -> Vectors:
        grown, none = _Growing(self._space.dimensions), np.zeros(0, np.int64)
        return Vectors(base.state, base, *grown.append([], [], []), none, none, grown)

    def _advanced(self, connection: sqlite3.Connection, vectors: Vectors, state: State) -> Vectors:
        if vectors.state == state:
            return vectors
        found = connection.execute(
            "SELECT c.face, f.person, f.embedding FROM (SELECT DISTINCT face FROM change WHERE number > ? "
            "AND face IS NOT NULL) AS c LEFT JOIN face AS f ON f.id = c.face ORDER BY c.face",
            (vectors.state.number,),
        ).fetchall()
        faces = np.array([row[0] for row in found], np.int64)
        at = vectors.row_of(faces)
        new = [i for i, row in enumerate(found) if at[i] < 0 and row[1] is not None]
        embeddings = self._unpacked([found[i][2] for i in new], faces[new])
        ids, people, rows = vectors.grown.append(faces[new], [found[i][1] for i in new], embeddings)
        moved = {int(at[i]): -1 if row[1] is None else row[1] for i, row in enumerate(found) if at[i] >= 0}
        everything = dict(zip(vectors.changed.tolist(), vectors.owners.tolist(), strict=True)) | moved
        changed = np.array(sorted(everything), np.int64)
        owners = np.array([everything[row] for row in changed.tolist()], np.int64)
        return Vectors(state, vectors.base, ids, people, rows, changed, owners, vectors.grown)

    def _unpacked(self, blobs: list[bytes], faces: Ids) -> Embeddings:
        size = 4 * self._space.dimensions
        for blob, face in zip(blobs, faces.tolist(), strict=True):
            if not isinstance(blob, bytes) or len(blob) != size:
                found = len(blob) if isinstance(blob, bytes) else "no"
                raise PocketNetError(
                    f"{self._database.path}: damaged: the embedding of face {face} has {found} bytes, "
                    f"not {size}"
                )
        return np.frombuffer(b"".join(blobs), "<f4").reshape(-1, self._space.dimensions)

    def _wants_cache(self, vectors: Vectors) -> bool:
        if self._database.read_only or time.monotonic() < self._retry_at:
            return False
        held = len(vectors.base.ids) if vectors.base.mapped else 0
        lacking = vectors.stale if vectors.base.mapped else len(vectors)
        return lacking > max(_WITHOUT_FILE, held // _CHANGED_PART)

    def _renew_cache(self) -> None:
        path = self._database.path
        if self._database.moved():
            return
        try:
            # Who holds the lock makes a cache, or throws it away: both are quicker than waiting for it.
            with locked(path, 0) as held:
                if not held:
                    return
                with self._lock, self._database.reading() as connection:
                    state = newest_state(connection, self._space, path)
                    there = self._from_cache(connection, state)
                    if there is None or self._wants_cache(self._advanced(connection, there, state)):
                        self._write(self._refreshed(connection))
                        there = self._from_cache(connection, state)
                    if there is not None:
                        self._newest = self._advanced(connection, self._begun(there.base), state)
        except OSError as error:
            self.problem = f"no cache could be written beside {path}: {error.strerror}"
            self._retry_at = time.monotonic() + _RETRY
        else:
            self.problem = None

    def _write(self, vectors: Vectors) -> None:
        count = len(vectors.base.ids) + len(vectors.ids)
        living = vectors.living(0, count)

        def parts() -> Iterator[Embeddings]:
            for first, rows in vectors.parts:
                for start in range(0, len(rows), _BATCH):
                    part = rows[start : start + _BATCH]
                    yield part[vectors.living(first + start, len(part)) - first - start]

        write_cache(
            self._database.path,
            vectors.state,
            vectors.faces_of(living),
            vectors.people_of(living),
            parts(),
            self._space.dimensions,
        )


class _Growing:
    """Arrays that are appended to; what was given out before stays as it was."""

    def __init__(self, dimensions: int) -> None:
        self._count = 0
        self._ids = np.zeros(0, np.int64)
        self._people = np.zeros(0, np.int64)
        self._rows = np.zeros((0, dimensions), np.float32)

    def append(
        self, ids: Ids | list[int], people: Ids | list[int], rows: Embeddings | list[Embeddings]
    ) -> tuple[Ids, Ids, Embeddings]:
        end = self._count + len(ids)
        if end > len(self._ids):
            room = max(2 * len(self._ids), end, 64)
            self._ids, self._people, self._rows = (
                np.concatenate(
                    [old[: self._count], np.zeros((room - self._count, *old.shape[1:]), old.dtype)]
                )
                for old in (self._ids, self._people, self._rows)
            )
        if len(ids):
            self._ids[self._count : end] = ids
            self._people[self._count : end] = people
            self._rows[self._count : end] = rows
        self._count = end
        return self._ids[:end], self._people[:end], self._rows[:end]


def newest_state(connection: sqlite3.Connection, space: EmbeddingSpace, where: object) -> State:
    """The state that a transaction sees.

    Raises:
        PocketNetError: The gallery was replaced by one of another space.
    """
    uuid, *held = connection.execute(
        "SELECT uuid, model, weights_sha256, flip, dimensions FROM gallery"
    ).fetchone()
    EmbeddingSpace(held[0], held[1], bool(held[2]), held[3]).require_same(
        space, f"{where} was replaced since it was opened"
    )
    newest = connection.execute("SELECT number, mark FROM change ORDER BY number DESC LIMIT 1").fetchone()
    return State(uuid, *(newest or (0, 0)))


def _is_known(connection: sqlite3.Connection, known: State, state: State) -> bool:
    """Whether a state is an earlier one of the same gallery."""
    if known.uuid != state.uuid or known.number > state.number:
        return False
    if known.number == 0:
        return True
    mark = connection.execute("SELECT mark FROM change WHERE number = ?", (known.number,)).fetchone()
    return mark == (known.mark,)
