"""A gallery of people: one SQLite database that is open, and everything that is done with it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pocketnet_fast.gallery import people as statements
from pocketnet_fast.gallery.checking import Checked, Stats, check_gallery, stats_of
from pocketnet_fast.gallery.compaction import compact
from pocketnet_fast.gallery.creation import fill_new
from pocketnet_fast.gallery.database import TIMEOUT, Database
from pocketnet_fast.gallery.people import Box, FaceEntry, Person, PersonKey, new_faces
from pocketnet_fast.gallery.search import (
    Claim,
    Match,
    best_rows,
    best_rows_of_bytes,
    check_search,
    claim,
    named,
)
from pocketnet_fast.gallery.space import EmbeddingSpace, unit_rows
from pocketnet_fast.gallery.vectors import VectorsOfGallery, newest_state

Embeddings = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


class Gallery:
    """People with names and faces, in one file; ``create`` makes one, the constructor opens one.

    Any number of processes and threads may read and write a gallery at the same time. Every answer is of one
    state, the newest one; several answers of one state are had within ``snapshot``. Writers wait for each
    other. A gallery that is open stays so when its file is moved, removed or replaced; it can then be read.

    Args:
        path: The gallery's file.
        timeout: Seconds that a writer waits for others.

    Attributes:
        path: The gallery's file.
        space: Which embeddings it holds.
        name_by: How names were made of photos, "file" or "folder"; empty if it is not known.

    Raises:
        PocketNetError: No gallery, or one that is damaged or of another version.
    """

    def __init__(self, path: str | os.PathLike[str], *, timeout: float = TIMEOUT) -> None:
        self.path = Path(path)
        self._database = Database(self.path, timeout=timeout)
        with self._database.reading() as connection:
            *space, self.name_by = connection.execute(
                "SELECT model, weights_sha256, flip, dimensions, name_by FROM gallery"
            ).fetchone()
        self.space = EmbeddingSpace(space[0], space[1], bool(space[2]), space[3])
        self._vectors = VectorsOfGallery(self._database, self.space)

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        space: EmbeddingSpace,
        *,
        name_by: str = "",
        overwrite: bool = False,
        fill: Callable[[sqlite3.Connection], object] = lambda connection: None,
        timeout: float = TIMEOUT,
    ) -> Gallery:
        """Make a gallery, and its folder if need be: whole, or after an error or a kill not at all.

        Args:
            path: The file.
            space: Which embeddings it will hold.
            name_by: "file" or "folder", how persons are named when photos are added; or empty.
            overwrite: Replace a gallery that is there, in one step.
            fill: Called with a connection within the transaction that makes the gallery.
            timeout: Seconds to wait for other writers.

        Raises:
            PocketNetError: There is such a file, or it cannot be written.
        """
        fill_new(Path(path), space, name_by, overwrite=overwrite, fill=fill, timeout=timeout)
        return cls(path, timeout=timeout)

    def close(self) -> None:
        """Let go of the file; afterwards the gallery cannot be used."""
        self._database.close()

    def __enter__(self) -> Gallery:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """How many faces there are."""
        with self._vectors.reading() as (_, vectors):
            return len(vectors)

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection within a read transaction, for questions that this class has no answer to."""
        with self._database.reading() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """The same within a write transaction, which is committed if the block ends without an exception.

        Raises:
            PocketNetError: The gallery cannot be written.
        """
        with self._database.writing() as connection:
            newest_state(connection, self.space, self.path)
            yield connection

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Gallery]:
        """Within the block this thread's answers are all of one state, whoever writes meanwhile."""
        with self._vectors.reading():
            yield self

    def refresh(self) -> int:
        """Bring the vectors up to date now rather than at the next search; returns the number of changes.

        A number that has not changed says that nothing has.
        """
        with self._vectors.reading() as (_, vectors):
            return vectors.state.number

    @property
    def replaced(self) -> bool:
        """Whether the path leads to another file now, or to none; this one can still be read."""
        return self._database.moved()

    @property
    def cache_problem(self) -> str | None:
        """Why the vectors' cache could not be written, so that opening takes longer than it must; or None."""
        return self._vectors.problem

    # People and faces

    def people(self, *, after: int = 0, limit: int | None = None) -> list[Person]:
        """Everybody, in the order of their ids.

        Args:
            after: Only people with a larger id.
            limit: How many at most.
        """
        with self._database.reading() as connection:
            return statements.all_people(connection, after, limit)

    def person(self, key: PersonKey) -> Person:
        """A person by name or id.

        Raises:
            PocketNetError: There is none.
        """
        with self._database.reading() as connection:
            return statements.the_person(connection, key, self.path)

    def faces(self, key: PersonKey) -> list[FaceEntry]:
        """A person's faces, in the order of their ids.

        Raises:
            PocketNetError: There is no such person.
        """
        with self._database.reading() as connection:
            person = statements.the_person(connection, key, self.path)
            return statements.faces_of(connection, person.id)

    def face(self, face: int) -> FaceEntry:
        """A face by its id.

        Raises:
            PocketNetError: There is none.
        """
        with self._database.reading() as connection:
            return statements.the_face(connection, face, self.path)

    def embeddings(self, key: PersonKey | None = None) -> tuple[Ids, Embeddings]:
        """Ids of faces, rising, and their embeddings, N x D float32 of length 1: a person's, or all.

        Raises:
            PocketNetError: There is no such person.
        """
        with self._vectors.reading() as (connection, vectors):
            if key is None:
                parts = [rows for _, rows in vectors.parts]
                living = vectors.living(0, sum(map(len, parts)))
                return vectors.faces_of(living), np.concatenate(parts)[living]
            person = statements.the_person(connection, key, self.path)
            ids = [face.id for face in statements.faces_of(connection, person.id)]
            rows = statements.embeddings_of(connection, person.id, self.space.dimensions)
            return np.array(ids, np.int64), rows

    def add(
        self,
        people: Sequence[PersonKey],
        embeddings: npt.ArrayLike,
        *,
        photos: Sequence[str] | None = None,
        boxes: Sequence[Box | None] | None = None,
        qualities: Sequence[float | None] | None = None,
    ) -> list[int]:
        """Add faces: all of them, or after an error or a kill none.

        Args:
            people: N names, or ids of people who are there. Who is not there by that name is added.
            embeddings: N x D, of any length but 0; normalised here.
            photos: N texts that tell where each comes from; default: empty.
            boxes: N times left, top, width and height in the photo, or None.
            qualities: N times 0 to 1 (``Face.quality``), or None.

        Returns:
            The ids of the faces.

        Raises:
            PocketNetError: The numbers or dimensions do not fit, an embedding is not finite or zero, a name
                is none, there is no person with an id, or the gallery cannot be written.
        """
        unit = unit_rows(embeddings, self.space.dimensions, photos or people)
        new = new_faces(people, unit, photos, boxes, qualities)
        with self.writing() as connection:
            return statements.insert_faces(connection, new, self.path)

    def rename(self, key: PersonKey, name: str) -> None:
        """Give a person another name; see ``change``."""
        self.change(key, name=name)

    def change(self, key: PersonKey, *, name: str | None = None, notes: str | None = None) -> None:
        """Replace a person's name or notes, or both in one step.

        Args:
            key: The person, by name or id.
            name: The new name; None to keep it.
            notes: The new notes; None to keep them.

        Raises:
            PocketNetError: There is no such person, the name is none, somebody else has it, or the gallery
                cannot be written.
        """
        with self.writing() as connection:
            person = statements.the_person(connection, key, self.path)
            if name is not None:
                statements.rename(connection, person.id, name, self.path)
            if notes is not None:
                statements.set_notes(connection, person.id, notes, self.path)

    def merge(self, source: PersonKey, into: PersonKey) -> Person:
        """Give all faces of one person to another, and delete the first; notes are joined.

        Returns:
            The person that is left.

        Raises:
            PocketNetError: One of them is not there, they are the same, or the gallery cannot be written.
        """
        with self.writing() as connection:
            return statements.merge(connection, source, into, self.path)

    def move(self, face: int, to: PersonKey) -> None:
        """Give a face to another person; a name that nobody has makes a new one.

        Raises:
            PocketNetError: There is no such face or person, or the gallery cannot be written.
        """
        with self.writing() as connection:
            statements.move_face(connection, face, to, self.path)

    def delete_face(self, face: int) -> None:
        """Delete a face; its person stays. ``compact`` erases it from the disk.

        Raises:
            PocketNetError: There is no such face, or the gallery cannot be written.
        """
        with self.writing() as connection:
            statements.delete_face(connection, face, self.path)

    def delete_person(self, key: PersonKey) -> Person:
        """Delete a person and all faces of this person. ``compact`` erases them from the disk.

        Returns:
            Who it was.

        Raises:
            PocketNetError: There is no such person, or the gallery cannot be written.
        """
        with self.writing() as connection:
            return statements.delete_person(connection, key, self.path)

    # Answers

    def search(
        self,
        queries: npt.ArrayLike,
        *,
        top: int = 5,
        threshold: float | None = None,
        margin: float | None = None,
        by: str = "person",
        precision: str = "fp32",
        threads: int | None = None,
    ) -> list[list[Match]]:
        """Find the people most similar to each query, each by the best of their faces.

        Args:
            queries: Q x D embeddings of any length but 0, of the gallery's space (see ``EmbeddingSpace``).
            top: How many at most.
            threshold: The least cosine similarity; None for no limit.
            margin: By how much the best person must exceed the second; where it is less, the query has no
                matches, because it is not clear who it is. None for no limit.
            by: "person", or "face" for the most similar faces, whoever they are.
            precision: "fp32" searches exactly. "int8" (extra ``int8``) searches in bytes and scores the best
                candidates exactly: quicker in large galleries; the first search makes the bytes.
            threads: Threads; None for as many as PyTorch uses.

        Returns:
            For each query its matches, best first; equal ones in the order of their faces.

        Raises:
            PocketNetError: An option is none, the queries do not fit, an embedding is damaged, or NumKong is
                not installed.
        """
        check_search(top, by, margin, precision)
        unit = unit_rows(queries, self.space.dimensions)
        with self._vectors.reading() as (connection, vectors):
            # One more than is asked for tells by how much the last one leads.
            if precision == "int8":
                base = self._vectors.quantized(vectors)
                best = best_rows_of_bytes(unit, vectors, base, top + 1, by=by, threads=threads)
            else:
                best = best_rows(unit, vectors, top + 1, by=by, threads=threads)
            return named(connection, vectors, best, top=top, by=by, threshold=threshold, margin=margin)

    def claim(self, query: npt.ArrayLike, key: PersonKey, *, threshold: float) -> Claim:
        """Answer whether a face is that of a certain person.

        Args:
            query: D numbers, an embedding of the gallery's space of any length but 0.
            key: The person, by name or id.
            threshold: The least cosine similarity to the best of the person's faces.

        Raises:
            PocketNetError: There is no such person, or the query does not fit.
        """
        unit = unit_rows(np.asarray(query, np.float32)[None], self.space.dimensions)[0]
        with self._database.reading() as connection:
            return claim(connection, unit, key, threshold, self.path)

    # Upkeep

    def compact(self) -> None:
        """Erase from the gallery's files what was deleted, and return its space.

        Raises:
            PocketNetError: The gallery cannot be written, or others used it without a pause.
        """
        compact(self._database)

    def stats(self) -> Stats:
        """Numbers about the gallery."""
        return stats_of(self._database)

    def check(self, on_faces: Callable[[int], None] = lambda count: None) -> Checked:
        """Read everything and see that it is whole.

        Args:
            on_faces: Called with the number of faces that were checked, for progress.

        Raises:
            PocketNetError: The database is damaged; the message says where.
        """
        return check_gallery(self._database, self.space, on_faces)
