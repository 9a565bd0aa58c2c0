"""A gallery of people, wherever it is kept, and everything that is done with it."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from pocketnet_fast.gallery.checking import Checked, Stats
from pocketnet_fast.gallery.database import TIMEOUT
from pocketnet_fast.gallery.people import Box, FaceEntry, Person, PersonKey, new_faces
from pocketnet_fast.gallery.search import Claim, Match, SearchOptions, check_search, claim
from pocketnet_fast.gallery.space import EmbeddingSpace, unit_rows
from pocketnet_fast.gallery.store import (
    Contents,
    Embeddings,
    Fill,
    Ids,
    Location,
    NewGallery,
    Writer,
    store_kind,
)


class Gallery:
    """People with names and faces, in a file or on Milvus; ``create`` makes one, the constructor opens one.

    Any number of processes and threads may read and write a gallery at the same time. In a file, every answer
    is of one state, the newest one; several answers of one state are had within ``snapshot``. Writers wait
    for each other. A gallery that is open stays so when its file is moved, removed or replaced; it can then
    be read.

    Milvus has no transactions: an answer holds whatever was written before it was asked for, and perhaps part
    of what is being written; a writer that is killed may leave part of its work, and every call can be
    repeated. docs/gallery_format.md says what is guaranteed there and what is not.

    Args:
        path: The gallery's file; ``milvus:http://HOST:PORT/NAME`` (https, too; ``/DATABASE/NAME`` names a
            database) for a Milvus server, or ``milvus:FILE.db#NAME`` for Milvus Lite (extra ``milvus``). The
            token of a server is read from the environment, ``POCKETNET_MILVUS_TOKEN``.
        timeout: Seconds that a writer waits for others; on Milvus, that any request may take.

    Attributes:
        path: The gallery's file, or its address on Milvus.
        space: Which embeddings it holds.
        name_by: How names were made of photos, "file" or "folder"; empty if it is not known.

    Raises:
        PocketNetError: No gallery, or one that is damaged or of another version; or Milvus cannot be reached,
            or pymilvus is not installed.

    Examples:
        >>> gallery = Gallery("people.gallery")
        >>> for match in gallery.search([face.embedding], threshold=0.4)[0]:
        ...     print(match.name, match.score)
    """

    def __init__(self, path: Location, *, timeout: float = TIMEOUT) -> None:
        self._store = store_kind(path)(path, timeout=timeout)
        self.path = self._store.path
        self.space = self._store.space
        self.name_by = self._store.name_by

    @classmethod
    def create(
        cls,
        path: Location,
        space: EmbeddingSpace,
        *,
        name_by: str = "",
        overwrite: bool = False,
        fill: Fill = lambda writer: None,
        timeout: float = TIMEOUT,
    ) -> Gallery:
        """Make a gallery, and the file's folder if need be: whole, or after an error or a kill not at all.

        Args:
            path: See ``Gallery``.
            space: Which embeddings it will hold.
            name_by: "file" or "folder", how persons are named when photos are added; or empty.
            overwrite: Replace a gallery that is there, in one step.
            fill: Called with a writer before the gallery can be seen.
            timeout: See ``Gallery``.

        Raises:
            PocketNetError: There is such a gallery, or it cannot be written.

        Examples:
            >>> space = EmbeddingSpace("pocketnet_s128", weights_sha256(model), flip=True, dimensions=128)
            >>> gallery = Gallery.create("people.gallery", space)
        """
        store_kind(path).create(path, NewGallery(space, name_by, overwrite, fill, timeout))
        return cls(path, timeout=timeout)

    @staticmethod
    def require_free(path: Location, overwrite: bool) -> None:
        """Refuse a place where no gallery may be made, before time is spent on what it is to hold.

        Raises:
            PocketNetError: There is a gallery and ``overwrite`` is not set, or something else.
        """
        store_kind(path).require_free(path, overwrite)

    @staticmethod
    def exists(path: Location) -> bool:
        """Whether there is a gallery, or something else where it would be.

        Raises:
            PocketNetError: Milvus cannot be reached, or pymilvus is not installed.
        """
        return store_kind(path).exists(path)

    def close(self) -> None:
        """Let go of the file, or of the server; afterwards the gallery cannot be used."""
        self._store.close()

    def __enter__(self) -> Gallery:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """How many faces there are."""
        return len(self._store)

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection within a read transaction, for questions that this class has no answer to.

        Raises:
            PocketNetError: The gallery is no file.
        """
        with self._store.reading() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """The same within a write transaction, which is committed if the block ends without an exception.

        Raises:
            PocketNetError: The gallery cannot be written, or is no file.
        """
        with self._store.writing() as connection:
            yield connection

    @contextlib.contextmanager
    def adding(self) -> Iterator[Writer]:
        """What adds people and faces: all of them if the block ends without an exception, and else none.

        Raises:
            PocketNetError: The gallery cannot be written.
        """
        with self._store.adding() as writer:
            yield writer

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Gallery]:
        """Within the block this thread's answers are all of one state, whoever writes meanwhile.

        On Milvus each answer remains one by itself.
        """
        with self._store.snapshot():
            yield self

    def refresh(self) -> int:
        """Bring the vectors up to date now rather than at the next search; returns the number of changes.

        A number that has not changed says that nothing has.

        Raises:
            PocketNetError: The gallery is no file.
        """
        return self._store.refresh()

    @property
    def replaced(self) -> bool:
        """Whether the path leads to another gallery now, or to none; this one's file can still be read."""
        return self._store.replaced

    @property
    def cache_problem(self) -> str | None:
        """Why the vectors' cache could not be written, so that opening takes longer than it must; or None."""
        return self._store.cache_problem

    @property
    def erasure(self) -> str:
        """What erases for good the faces that were deleted, as a sentence."""
        return self._store.erasure

    # People and faces

    def people(self, *, after: int = 0, limit: int | None = None) -> list[Person]:
        """Everybody, in the order of their ids.

        Args:
            after: Only people with a larger id.
            limit: How many at most.
        """
        return self._store.people(after, limit)

    def person(self, key: PersonKey) -> Person:
        """A person by name or id.

        Raises:
            PocketNetError: There is none.
        """
        return self._store.person(key)

    def faces(self, key: PersonKey) -> list[FaceEntry]:
        """A person's faces, in the order of their ids.

        Raises:
            PocketNetError: There is no such person.
        """
        return self._store.faces(key)

    def face(self, face: int) -> FaceEntry:
        """A face by its id.

        Raises:
            PocketNetError: There is none.
        """
        return self._store.face(face)

    def embeddings(self, key: PersonKey | None = None) -> tuple[Ids, Embeddings]:
        """Ids of faces, rising, and their embeddings, N x D float32 of length 1: a person's, or all.

        Raises:
            PocketNetError: There is no such person.
        """
        if key is None:
            return self._store.embeddings()
        _, ids, rows = self._store.embeddings_of(key)
        return ids, rows

    def contents(self) -> Contents:
        """Everybody and all faces with their embeddings, of one state."""
        return self._store.contents()

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

        Examples:
            >>> gallery.add(["Ann Lee"], [face.embedding], photos=["ann.jpg"])
        """
        unit = unit_rows(embeddings, self.space.dimensions, photos or people)
        new = new_faces(people, unit, photos, boxes, qualities)
        with self.adding() as writer:
            return list(writer.insert_faces(new))

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
        self._store.change(key, name, notes)

    def merge(self, source: PersonKey, into: PersonKey) -> Person:
        """Give all faces of one person to another, and delete the first; notes are joined.

        Returns:
            The person that is left.

        Raises:
            PocketNetError: One of them is not there, they are the same, or the gallery cannot be written.
        """
        return self._store.merge(source, into)

    def move(self, face: int, to: PersonKey) -> None:
        """Give a face to another person; a name that nobody has makes a new one.

        Raises:
            PocketNetError: There is no such face or person, or the gallery cannot be written.
        """
        self._store.move(face, to)

    def delete_face(self, face: int) -> None:
        """Delete a face; its person stays. ``erasure`` says what erases it for good.

        Raises:
            PocketNetError: There is no such face, or the gallery cannot be written.
        """
        self._store.delete_face(face)

    def delete_person(self, key: PersonKey) -> Person:
        """Delete a person and all faces of this person. ``erasure`` says what erases them for good.

        Returns:
            Who it was.

        Raises:
            PocketNetError: There is no such person, or the gallery cannot be written.
        """
        return self._store.delete_person(key)

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
            precision: "fp32" searches exactly, and on Milvus as the collection's index does. "int8" (extra
                ``int8``, files only) searches in bytes and scores the best candidates exactly: quicker in
                large galleries; the first search makes the bytes.
            threads: Threads; None for as many as PyTorch uses. On Milvus the server's own.

        Returns:
            For each query its matches, best first; equal ones in the order of their faces.

        Raises:
            PocketNetError: An option is none, the queries do not fit, an embedding is damaged, or NumKong is
                not installed.

        Examples:
            >>> best = gallery.search([face.embedding], top=1)[0][0]
            >>> best.name, round(best.score, 2)
            ('Ann Lee', 0.71)
        """
        check_search(top, by, margin, precision)
        unit = unit_rows(queries, self.space.dimensions)
        return self._store.search(unit, SearchOptions(top, threshold, margin, by, precision, threads))

    def claim(self, query: npt.ArrayLike, key: PersonKey, *, threshold: float) -> Claim:
        """Answer whether a face is that of a certain person.

        Args:
            query: D numbers, an embedding of the gallery's space of any length but 0.
            key: The person, by name or id.
            threshold: The least cosine similarity to the best of the person's faces.

        Raises:
            PocketNetError: There is no such person, or the query does not fit.

        Examples:
            >>> gallery.claim(face.embedding, "Ann Lee", threshold=0.4).accepted
            True
        """
        unit = unit_rows(np.asarray(query, np.float32)[None], self.space.dimensions)[0]
        return claim(*self._store.embeddings_of(key), unit, threshold)

    # Upkeep

    def compact(self) -> None:
        """Erase from the gallery's files what was deleted, and return its space.

        Raises:
            PocketNetError: The gallery is no file, it cannot be written, or others used it without a pause.
        """
        self._store.compact()

    def stats(self) -> Stats:
        """Numbers about the gallery."""
        return self._store.stats()

    def check(self, on_faces: Callable[[int], None] = lambda count: None) -> Checked:
        """Read everything and see that it is whole.

        Args:
            on_faces: Called with the number of faces that were checked, for progress.

        Raises:
            PocketNetError: The gallery is damaged; the message says where.
        """
        return self._store.check(on_faces)
