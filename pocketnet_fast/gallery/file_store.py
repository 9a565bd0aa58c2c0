"""A gallery in one file: an SQLite database that is open, with its vectors in memory."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from pocketnet_fast.gallery import people as statements
from pocketnet_fast.gallery.checking import Checked, Stats, check_gallery, stats_of
from pocketnet_fast.gallery.compaction import compact
from pocketnet_fast.gallery.creation import fill_new, require_free
from pocketnet_fast.gallery.database import Database
from pocketnet_fast.gallery.people import FaceEntry, NewFaces, Person, PersonKey
from pocketnet_fast.gallery.search import Match, SearchOptions, best_rows, best_rows_of_bytes, named
from pocketnet_fast.gallery.space import EmbeddingSpace
from pocketnet_fast.gallery.store import Contents, Embeddings, Ids, Location, NewGallery, Store, Writer
from pocketnet_fast.gallery.vectors import VectorsOfGallery, newest_state

_ERASURE: Final = "`pocketnet gallery compact` erases what was deleted from the disk"


class FileStore(Store):
    """See ``Store`` and ``Gallery``.

    Args:
        location: The file.
        timeout: Seconds that a writer waits for others.

    Raises:
        PocketNetError: No gallery, or one that is damaged or of another version.
    """

    path: Path
    erasure = _ERASURE

    def __init__(self, location: Location, *, timeout: float) -> None:
        self.path = Path(location)
        self._database = Database(self.path, timeout=timeout)
        with self._database.reading() as connection:
            *space, self.name_by = connection.execute(
                "SELECT model, weights_sha256, flip, dimensions, name_by FROM gallery"
            ).fetchone()
        self.space = EmbeddingSpace(space[0], space[1], bool(space[2]), space[3])
        self._vectors = VectorsOfGallery(self._database, self.space)

    @classmethod
    def create(cls, location: Location, new: NewGallery) -> None:
        path = Path(location)
        fill_new(path, new, lambda connection: new.fill(_Writer(connection, path)))

    @classmethod
    def require_free(cls, location: Location, overwrite: bool) -> None:
        require_free(Path(location), overwrite)

    @classmethod
    def exists(cls, location: Location) -> bool:
        return Path(location).exists()

    def close(self) -> None:
        self._database.close()

    def __len__(self) -> int:
        with self._vectors.reading() as (_, vectors):
            return len(vectors)

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        with self._database.reading() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        with self._database.writing() as connection:
            newest_state(connection, self.space, self.path)
            yield connection

    @contextlib.contextmanager
    def adding(self) -> Iterator[Writer]:
        with self.writing() as connection:
            yield _Writer(connection, self.path)

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        with self._vectors.reading():
            yield

    def refresh(self) -> int:
        with self._vectors.reading() as (_, vectors):
            return vectors.state.number

    @property
    def replaced(self) -> bool:
        return self._database.moved()

    @property
    def cache_problem(self) -> str | None:
        return self._vectors.problem

    def people(self, after: int, limit: int | None) -> list[Person]:
        with self._database.reading() as connection:
            return statements.all_people(connection, after, limit)

    def person(self, key: PersonKey) -> Person:
        with self._database.reading() as connection:
            return statements.the_person(connection, key, self.path)

    def faces(self, key: PersonKey) -> list[FaceEntry]:
        with self._database.reading() as connection:
            person = statements.the_person(connection, key, self.path)
            return statements.faces_of(connection, person.id)

    def face(self, face: int) -> FaceEntry:
        with self._database.reading() as connection:
            return statements.the_face(connection, face, self.path)

    def embeddings(self) -> tuple[Ids, Embeddings]:
        with self._vectors.reading() as (_, vectors):
            parts = [rows for _, rows in vectors.parts]
            living = vectors.living(0, sum(map(len, parts)))
            return vectors.faces_of(living), np.concatenate(parts)[living]

    def embeddings_of(self, key: PersonKey) -> tuple[Person, Ids, Embeddings]:
        with self._database.reading() as connection:
            person = statements.the_person(connection, key, self.path)
            ids = [face.id for face in statements.faces_of(connection, person.id)]
            rows = statements.embeddings_of(connection, person.id, self.space.dimensions)
            return person, np.array(ids, np.int64), rows

    def contents(self) -> Contents:
        with self._database.reading() as connection:
            people = statements.all_people(connection, 0, None)
            faces, rows = statements.all_faces(connection, self.space.dimensions)
            return Contents(people, faces, rows)

    def change(self, key: PersonKey, name: str | None, notes: str | None) -> None:
        with self.writing() as connection:
            person = statements.the_person(connection, key, self.path)
            if name is not None:
                statements.rename(connection, person.id, name, self.path)
            if notes is not None:
                statements.set_notes(connection, person.id, notes, self.path)

    def merge(self, source: PersonKey, into: PersonKey) -> Person:
        with self.writing() as connection:
            return statements.merge(connection, source, into, self.path)

    def move(self, face: int, to: PersonKey) -> None:
        with self.writing() as connection:
            statements.move_face(connection, face, to, self.path)

    def delete_face(self, face: int) -> None:
        with self.writing() as connection:
            statements.delete_face(connection, face, self.path)

    def delete_person(self, key: PersonKey) -> Person:
        with self.writing() as connection:
            return statements.delete_person(connection, key, self.path)

    def search(self, queries: Embeddings, wanted: SearchOptions) -> list[list[Match]]:
        with self._vectors.reading() as (connection, vectors):
            # One more than is asked for tells by how much the last one leads.
            count, by, threads = wanted.top + 1, wanted.by, wanted.threads
            if wanted.precision == "int8":
                base = self._vectors.quantized(vectors)
                best = best_rows_of_bytes(queries, vectors, base, count, by=by, threads=threads)
            else:
                best = best_rows(queries, vectors, count, by=by, threads=threads)
            return named(connection, vectors, best, wanted)

    def compact(self) -> None:
        compact(self._database)

    def stats(self) -> Stats:
        return stats_of(self._database)

    def check(self, on_faces: Callable[[int], None]) -> Checked:
        return check_gallery(self._database, self.space, on_faces)


class _Writer:
    """Adds within a transaction that has begun."""

    def __init__(self, connection: sqlite3.Connection, where: Path) -> None:
        self._connection = connection
        self._where = where

    def insert_people(self, people: Iterable[tuple[str, str]]) -> None:
        statements.insert_people(self._connection, people)

    def insert_faces(self, new: NewFaces) -> Sequence[int]:
        return statements.insert_faces(self._connection, new, self._where)
