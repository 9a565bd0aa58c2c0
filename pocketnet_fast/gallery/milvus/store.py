"""A gallery on Milvus: people in one collection, faces with their embeddings in another.

There are no transactions. Every entity is written at once, and whoever asks afterwards sees it, from any
machine (consistency level Strong). What takes several requests is ordered so that a writer that is killed
leaves whole people and faces, and so that the same call finishes it:

- adding writes people before their faces, and takes back what it wrote after an error;
- merging moves faces before the emptied person is deleted, and deleting a person begins with the faces;
- a new gallery can be seen when the entity that names its collections is written, the last of all.

Milvus knows no unique names either: two processes that add a new name at the same time make two people of
it, and one that adds a face to a person who is being deleted leaves a face of nobody. ``check`` finds both.
Ids are numbers that Milvus gives (``auto_id``) in a collection of their own, so none is given twice.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.gallery.checking import Checked, Stats
from pocketnet_fast.gallery.database import TIMEOUT
from pocketnet_fast.gallery.milvus.address import parse_address
from pocketnet_fast.gallery.milvus.collections import (
    EMBEDDING,
    FACE,
    PERSON,
    as_face,
    as_person,
    left_behind,
    make_collections,
    make_head,
    name_key,
    new_head,
    person_row,
    read_head,
    require_collections,
    write_head,
)
from pocketnet_fast.gallery.milvus.connection import Connection, Row
from pocketnet_fast.gallery.milvus.ranking import best_hits
from pocketnet_fast.gallery.milvus.writer import MilvusWriter, people_named
from pocketnet_fast.gallery.people import FaceEntry, Person, PersonKey, check_name, check_text
from pocketnet_fast.gallery.schema import require_name_by
from pocketnet_fast.gallery.search import Match, SearchOptions, accepted
from pocketnet_fast.gallery.space import rows_of_other_length
from pocketnet_fast.gallery.store import (
    Contents,
    Embeddings,
    Ids,
    Location,
    NewGallery,
    Store,
    Writer,
    already_there,
)

_ERASURE: Final = "Milvus erases what was deleted when it compacts its segments"
# Of a finding, what a message names.
_SHOWN: Final = 3


class MilvusStore(Store):
    """See ``Store`` and ``Gallery``.

    Args:
        location: ``milvus:http://HOST:PORT/NAME`` and the like, see ``Gallery``.
        timeout: Seconds that a request may take.

    Raises:
        PocketNetError: No gallery, or Milvus cannot be reached, or pymilvus is not installed.
    """

    erasure = _ERASURE

    def __init__(self, location: Location, *, timeout: float) -> None:
        self._connection = _opened(location, timeout)
        self.path = self._connection.address.text
        try:
            head = read_head(self._connection)
            if head is None:
                raise PocketNetError(
                    f"{self.path}: unfinished, or no gallery; `pocketnet gallery build` makes one"
                )
            require_collections(self._connection, head)
        except BaseException:
            self._connection.close()
            raise
        self._head = head
        self.space = head.space
        self.name_by = head.name_by

    @classmethod
    def create(cls, location: Location, new: NewGallery) -> None:
        require_name_by(new.name_by)
        connection = _connected(location, new.timeout)
        with contextlib.closing(connection), connection.turn:
            name = connection.address.name
            old = read_head(connection) if connection.has(name) else None
            if old is not None and not new.overwrite:
                raise already_there(connection.address.text)
            head = new_head(name, new.space, new.name_by)
            made = list(head.collections)
            try:
                make_collections(connection, head)
                new.fill(MilvusWriter(connection, head))
                if not connection.has(name):
                    make_head(connection)
                    made.append(name)
                write_head(connection, head)
            except BaseException:
                for collection in made:
                    with contextlib.suppress(PocketNetError):
                        connection.drop(collection)
                raise
            for collection in old.collections if old is not None else []:
                connection.drop(collection)

    @classmethod
    def require_free(cls, location: Location, overwrite: bool) -> None:
        with contextlib.closing(_connected(location)) as connection:
            if connection.has(connection.address.name) and read_head(connection) and not overwrite:
                raise already_there(connection.address.text)

    @classmethod
    def exists(cls, location: Location) -> bool:
        address = parse_address(location)
        if address.file is not None and not address.file.exists():
            return False
        with contextlib.closing(_connected(location)) as connection:
            return connection.has(address.name)

    def close(self) -> None:
        self._connection.close()

    def __len__(self) -> int:
        return self._connection.count(self._head.faces)

    def snapshot(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def adding(self) -> Iterator[Writer]:
        writer = MilvusWriter(self._connection, self._head)
        with self._connection.turn:
            try:
                yield writer
            except BaseException:
                writer.take_back()
                raise

    @property
    def replaced(self) -> bool:
        if not self._connection.has(self._connection.address.name):
            return True
        head = read_head(self._connection)
        return head is None or head.uuid != self._head.uuid

    def people(self, after: int, limit: int | None) -> list[Person]:
        rows = self._connection.query(self._head.people, f"id > {after}", PERSON, limit=limit)
        counts = self._counts(None if limit is None else [int(row["id"]) for row in rows])
        return [as_person(row, counts[int(row["id"])]) for row in rows]

    def person(self, key: PersonKey) -> Person:
        row = self._person_row(key)
        return as_person(row, self._connection.count(self._head.faces, f"person == {row['id']}"))

    def faces(self, key: PersonKey) -> list[FaceEntry]:
        number = self._person_row(key)["id"]
        return [as_face(row) for row in self._faces_of(int(number), FACE)]

    def face(self, face: int) -> FaceEntry:
        return as_face(self._face_row(face, FACE))

    def embeddings(self) -> tuple[Ids, Embeddings]:
        ids: list[int] = []
        parts: list[Embeddings] = []
        for rows in self._walk_faces(["id", EMBEDDING]):
            ids += [int(row["id"]) for row in rows]
            parts.append(self._embeddings(rows))
        return np.array(ids, np.int64), np.concatenate([self._embeddings([]), *parts])

    def embeddings_of(self, key: PersonKey) -> tuple[Person, Ids, Embeddings]:
        person = self._person_row(key)
        rows = self._faces_of(int(person["id"]), ["id", EMBEDDING])
        ids = np.array([row["id"] for row in rows], np.int64)
        return as_person(person, len(rows)), ids, self._embeddings(rows)

    def contents(self) -> Contents:
        faces: list[FaceEntry] = []
        parts: list[Embeddings] = []
        # Faces first: people are written before their faces, so that each face's person is there.
        for rows in self._walk_faces([*FACE, EMBEDDING]):
            faces += map(as_face, rows)
            parts.append(self._embeddings(rows))
        counts = Counter(face.person for face in faces)
        people = [
            as_person(row, counts[int(row["id"])])
            for part in self._connection.walk(self._head.people, PERSON)
            for row in part
        ]
        rows_of_all = np.concatenate([self._embeddings([]), *parts])
        there = {person.id for person in people}
        kept = [place for place, face in enumerate(faces) if face.person in there]
        return Contents(people, [faces[place] for place in kept], rows_of_all[kept])

    def change(self, key: PersonKey, name: str | None, notes: str | None) -> None:
        with self._connection.turn:
            person = self._person_row(key)
            if name is not None:
                check_name(name)
                if name != person["name"] and people_named(self._connection, self._head, [name]):
                    raise PocketNetError(
                        f"{self.path}: somebody is named {name!r} already; merge the two if they are one"
                    )
            if notes is not None:
                check_text(notes, "notes")
            changed = person_row(
                int(person["id"]),
                person["name"] if name is None else name,
                person["notes"] if notes is None else notes,
            )
            self._connection.upsert(self._head.people, [changed])

    def merge(self, source: PersonKey, into: PersonKey) -> Person:
        with self._connection.turn:
            one, other = self._person_row(source), self._person_row(into)
            if one["id"] == other["id"]:
                raise PocketNetError(f"{self.path}: {one['name']!r} cannot be merged with the same person")
            self._give(self._faces_of(int(one["id"]), [*FACE, EMBEDDING]), int(other["id"]))
            # They end with those of the first where a merge was broken off before it deleted that person.
            if one["notes"] and not f"\n{other['notes']}".endswith(f"\n{one['notes']}"):
                notes = "\n".join(filter(None, [other["notes"], one["notes"]]))
                self._connection.upsert(
                    self._head.people, [person_row(int(other["id"]), other["name"], notes)]
                )
            self._connection.delete(self._head.people, [int(one["id"])])
            return self.person(int(other["id"]))

    def move(self, face: int, to: PersonKey) -> None:
        with self._connection.turn:
            row = self._face_row(face, [*FACE, EMBEDDING])
            writer = MilvusWriter(self._connection, self._head)
            self._give([row], writer.people_ids([to])[to])

    def delete_face(self, face: int) -> None:
        with self._connection.turn:
            self._face_row(face, ["id"])
            self._connection.delete(self._head.faces, [face])

    def delete_person(self, key: PersonKey) -> Person:
        with self._connection.turn:
            row = self._person_row(key)
            ids = [int(face["id"]) for face in self._faces_of(int(row["id"]), ["id"])]
            self._connection.delete(self._head.faces, ids)
            self._connection.delete(self._head.people, [int(row["id"])])
            return as_person(row, len(ids))

    def search(self, queries: Embeddings, wanted: SearchOptions) -> list[list[Match]]:
        if wanted.precision != "fp32":
            raise PocketNetError(
                f"{self.path}: precision {wanted.precision} is of galleries in files; on Milvus the index of "
                f"the collection {self._head.faces} decides how it is searched"
            )
        # One more than is asked for tells by how much the last one leads.
        found = best_hits(self._connection, self._head.faces, queries, wanted.top + 1, wanted.by)
        owners = sorted({hit.person for hits in found for hit in hits})
        names = {
            int(row["id"]): row["name"]
            for row in self._connection.get(self._head.people, owners, ["id", "name"])
        }
        results = []
        for hits in found:
            known = [hit for hit in hits if hit.person in names]
            scores = [hit.score for hit in known]
            matches = accepted(known, scores, wanted)
            results.append(
                [
                    Match(hit.person, names[hit.person], hit.face, hit.photo, score, lead)
                    for hit, score, lead in matches
                ]
            )
        return results

    def stats(self) -> Stats:
        people = self._connection.count(self._head.people)
        faces: Counter[int] = Counter()
        qualities, times = [math.inf], []
        for rows in self._walk_faces(["id", "person", "quality", "added"]):
            faces.update(int(row["person"]) for row in rows)
            qualities.append(
                min((row["quality"] for row in rows if row["quality"] is not None), default=math.inf)
            )
            times += [min(row["added"] for row in rows), max(row["added"] for row in rows)]
        lowest = min(qualities)
        return Stats(
            self._head.uuid,
            people,
            people - len(faces),
            faces.total(),
            max(faces.values(), default=0),
            lowest if math.isfinite(lowest) else None,
            min(times, default=None),
            max(times, default=None),
        )

    def check(self, on_faces: Callable[[int], None]) -> Checked:
        faces = 0
        owners: dict[int, int] = {}
        # Faces first, see ``contents``.
        for rows in self._walk_faces(["id", "person", EMBEDDING]):
            wrong = rows_of_other_length(self._embeddings(rows))
            if len(wrong):
                raise PocketNetError(
                    f"{self.path}: damaged: the embedding of face {rows[wrong[0]]['id']} has no length of 1"
                )
            for row in rows:
                owners.setdefault(int(row["person"]), int(row["id"]))
            faces += len(rows)
            on_faces(len(rows))
        people: dict[str, list[int]] = {}
        for rows in self._connection.walk(self._head.people, [*PERSON, "name_sha256"]):
            for row in rows:
                if row["name_sha256"] != name_key(row["name"]):
                    raise PocketNetError(
                        f"{self.path}: damaged: person {row['id']} is not found by the name {row['name']!r}"
                    )
                people.setdefault(row["name"], []).append(int(row["id"]))
                owners.pop(int(row["id"]), None)
        self._refuse(people, owners)
        return Checked(sum(map(len, people.values())), faces, "absent")

    def _refuse(self, people: dict[str, list[int]], lost: dict[int, int]) -> None:
        twice = next((ids for ids in people.values() if len(ids) > 1), None)
        if twice is not None:
            raise PocketNetError(
                f"{self.path}: persons {_listed(twice)} have one name, as processes that add it at the same "
                f"time leave it; `pocketnet gallery merge` of id:{twice[1]} into id:{twice[0]} mends it"
            )
        if lost:
            raise PocketNetError(
                f"{self.path}: {len(lost):,} persons are not there of whom there are faces, as of "
                f"{_listed(list(lost.values()))}; no search finds these, and `pocketnet gallery delete "
                "--face ID` removes one"
            )
        left = left_behind(self._connection, self._head)
        if left:
            raise PocketNetError(
                f"{self.path}: the collections {_listed(left)} are of no gallery: making one was broken off, "
                "or goes on; drop them by Milvus' own means"
            )

    def _person_row(self, key: PersonKey) -> Row:
        if isinstance(key, str):
            check_name(key)
            found = people_named(self._connection, self._head, [key])
        else:
            found = self._connection.get(self._head.people, [int(key)], PERSON)
        if not found:
            who = f"named {key!r}" if isinstance(key, str) else f"with the id {key}"
            raise PocketNetError(f"{self.path}: nobody is {who}")
        return min(found, key=lambda row: int(row["id"]))

    def _face_row(self, face: int, fields: Sequence[str]) -> Row:
        found = self._connection.get(self._head.faces, [face], fields)
        if not found:
            raise PocketNetError(f"{self.path}: there is no face with the id {face}")
        return found[0]

    def _faces_of(self, person: int, fields: Sequence[str]) -> list[Row]:
        dimensions = self.space.dimensions if EMBEDDING in fields else 0
        return self._connection.query(self._head.faces, f"person == {person}", fields, dimensions=dimensions)

    def _walk_faces(self, fields: Sequence[str]) -> Iterator[list[Row]]:
        dimensions = self.space.dimensions if EMBEDDING in fields else 0
        return self._connection.walk(self._head.faces, fields, dimensions)

    def _give(self, faces: Sequence[Row], person: int) -> None:
        fields = (*FACE, EMBEDDING)
        given = [{field: row[field] for field in fields} | {"person": person} for row in faces]
        self._connection.upsert(self._head.faces, given)

    def _embeddings(self, rows: Sequence[Row]) -> Embeddings:
        return np.array([row[EMBEDDING] for row in rows], np.float32).reshape(-1, self.space.dimensions)

    def _counts(self, people: Sequence[int] | None) -> Counter[int]:
        """How many faces persons have; None for all of them."""
        fields = ["id", "person"]
        parts = (
            self._walk_faces(fields)
            if people is None
            else [self._connection.query_any(self._head.faces, "person", people, fields)]
        )
        counts: Counter[int] = Counter()
        for rows in parts:
            counts.update(int(row["person"]) for row in rows)
        return counts


def _opened(location: Location, timeout: float) -> Connection:
    address = parse_address(location)
    if address.file is not None and not address.file.exists():
        raise PocketNetError(f"{address.text}: no such gallery; `pocketnet gallery build` makes one")
    return Connection(address, timeout)


def _connected(location: Location, timeout: float = TIMEOUT) -> Connection:
    return Connection(parse_address(location), timeout)


def _listed(what: Sequence[object]) -> str:
    named = ", ".join(map(str, what[:_SHOWN]))
    return named if len(what) <= _SHOWN else f"{named} and {len(what) - _SHOWN:,} more"
