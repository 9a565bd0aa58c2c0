"""Where a gallery is kept: what every such place can do, and which one an address means."""

from __future__ import annotations

import abc
import importlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, cast

import numpy as np
import numpy.typing as npt

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.gallery.people import FaceEntry, NewFaces, Person, PersonKey

if TYPE_CHECKING:
    from pocketnet_fast.gallery.checking import Checked, Stats
    from pocketnet_fast.gallery.search import Match, SearchOptions
    from pocketnet_fast.gallery.space import EmbeddingSpace

Embeddings = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Location = str | os.PathLike[str]
"""The path of a gallery's file, or an address such as ``milvus:http://host:19530/people``."""

_KINDS: Final = {"milvus": ("pocketnet_fast.gallery.milvus.store", "MilvusStore")}
_FILE: Final = ("pocketnet_fast.gallery.file_store", "FileStore")


@dataclass(frozen=True, eq=False)
class Contents:
    """Everything that a gallery holds.

    Attributes:
        people: In the order of their ids.
        faces: N, in the order of their ids.
        embeddings: N x D float32 of length 1.
    """

    people: list[Person]
    faces: list[FaceEntry]
    embeddings: Embeddings


class Writer(Protocol):
    """What adds people and faces in one step."""

    def insert_people(self, people: Iterable[tuple[str, str]]) -> None:
        """Add people by name and notes; who is there by that name keeps the notes, unless there are none."""

    def insert_faces(self, new: NewFaces) -> Sequence[int]:
        """Add faces, and people who are not there; returns the ids of the faces.

        Raises:
            PocketNetError: There is no person with an id that is given.
        """


Fill = Callable[[Writer], object]


@dataclass(frozen=True)
class NewGallery:
    """A gallery that is to be made.

    Attributes:
        space: Which embeddings it holds.
        name_by: How names are made of photos, "file" or "folder"; empty if it is not known.
        overwrite: Whether it replaces one that is there.
        fill: Called with what adds people and faces to it.
        timeout: Seconds that it may take until others let it be made.
    """

    space: EmbeddingSpace
    name_by: str
    overwrite: bool
    fill: Fill
    timeout: float


class Store(abc.ABC):
    """People and faces in some place. Arguments are checked and embeddings of length 1 already.

    ``Gallery`` documents what the methods do and raise.

    Attributes:
        path: Where it is, as it was given, without credentials.
        space: Which embeddings it holds.
        name_by: How names were made of photos, "file" or "folder"; empty if it is not known.
        erasure: What erases deleted faces for good, said to who deletes some.
    """

    path: Path | str
    space: EmbeddingSpace
    name_by: str
    erasure: str

    @abc.abstractmethod
    def __init__(self, location: Location, *, timeout: float) -> None: ...

    @classmethod
    @abc.abstractmethod
    def create(cls, location: Location, new: NewGallery) -> None:
        """Make a gallery and fill it; see ``Gallery.create``."""

    @classmethod
    @abc.abstractmethod
    def require_free(cls, location: Location, overwrite: bool) -> None:
        """See ``Gallery.require_free``."""

    @classmethod
    @abc.abstractmethod
    def exists(cls, location: Location) -> bool:
        """See ``Gallery.exists``."""

    @abc.abstractmethod
    def close(self) -> None:
        """See ``Gallery.close``."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def snapshot(self) -> AbstractContextManager[object]:
        """See ``Gallery.snapshot``."""

    @abc.abstractmethod
    def adding(self) -> AbstractContextManager[Writer]:
        """A writer whose additions all appear if the block ends without an exception, and else none."""

    @abc.abstractmethod
    def people(self, after: int, limit: int | None) -> list[Person]:
        """See ``Gallery.people``."""

    @abc.abstractmethod
    def person(self, key: PersonKey) -> Person:
        """See ``Gallery.person``."""

    @abc.abstractmethod
    def faces(self, key: PersonKey) -> list[FaceEntry]:
        """See ``Gallery.faces``."""

    @abc.abstractmethod
    def face(self, face: int) -> FaceEntry:
        """See ``Gallery.face``."""

    @abc.abstractmethod
    def embeddings(self) -> tuple[Ids, Embeddings]:
        """Ids of all faces, rising, and their embeddings."""

    @abc.abstractmethod
    def embeddings_of(self, key: PersonKey) -> tuple[Person, Ids, Embeddings]:
        """A person with the ids of the faces, rising, and their embeddings."""

    @abc.abstractmethod
    def contents(self) -> Contents:
        """See ``Gallery.contents``."""

    @abc.abstractmethod
    def change(self, key: PersonKey, name: str | None, notes: str | None) -> None:
        """See ``Gallery.change``."""

    @abc.abstractmethod
    def merge(self, source: PersonKey, into: PersonKey) -> Person:
        """See ``Gallery.merge``."""

    @abc.abstractmethod
    def move(self, face: int, to: PersonKey) -> None:
        """See ``Gallery.move``."""

    @abc.abstractmethod
    def delete_face(self, face: int) -> None:
        """See ``Gallery.delete_face``."""

    @abc.abstractmethod
    def delete_person(self, key: PersonKey) -> Person:
        """See ``Gallery.delete_person``."""

    @abc.abstractmethod
    def search(self, queries: Embeddings, wanted: SearchOptions) -> list[list[Match]]:
        """See ``Gallery.search``."""

    @abc.abstractmethod
    def stats(self) -> Stats:
        """See ``Gallery.stats``."""

    @abc.abstractmethod
    def check(self, on_faces: Callable[[int], None]) -> Checked:
        """See ``Gallery.check``."""

    @property
    @abc.abstractmethod
    def replaced(self) -> bool:
        """See ``Gallery.replaced``."""

    # What files alone have.

    @property
    def cache_problem(self) -> str | None:
        """See ``Gallery.cache_problem``."""
        return None

    def reading(self) -> AbstractContextManager[sqlite3.Connection]:
        """See ``Gallery.reading``."""
        raise self._no_file("no connection to SQLite")

    def writing(self) -> AbstractContextManager[sqlite3.Connection]:
        """See ``Gallery.writing``."""
        raise self._no_file("no connection to SQLite")

    def refresh(self) -> int:
        """See ``Gallery.refresh``."""
        raise self._no_file("no number of changes")

    def compact(self) -> None:
        """See ``Gallery.compact``."""
        raise self._no_file(f"nothing to compact; {self.erasure}")

    def _no_file(self, lacks: str) -> PocketNetError:
        return PocketNetError(f"{self.path} is no file, and has {lacks}")


def already_there(where: object) -> PocketNetError:
    """What is wrong with a place where a gallery is to be made and one is."""
    return PocketNetError(f"{where} already holds a gallery; add to it, or overwrite it")


def store_kind(location: Location) -> type[Store]:
    """What keeps the gallery that an address means."""
    scheme, colon, _ = os.fspath(location).partition(":")
    module, name = _KINDS.get(scheme, _FILE) if colon else _FILE
    return cast("type[Store]", getattr(importlib.import_module(module), name))
