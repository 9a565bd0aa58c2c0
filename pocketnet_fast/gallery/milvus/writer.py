"""Adding people and faces to a gallery on Milvus."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.gallery.milvus.collections import NOTHING, PERSON, Head, face_row, name_key, person_row
from pocketnet_fast.gallery.milvus.connection import Connection, Row
from pocketnet_fast.gallery.people import NewFaces, PersonKey, check_name


class MilvusWriter:
    """Adds people and faces, and remembers them, so that they can be taken back."""

    def __init__(self, connection: Connection, head: Head) -> None:
        self._connection = connection
        self._head = head
        self._people: list[int] = []
        self._faces: list[int] = []
        self._noted: list[Row] = []

    def insert_people(self, people: Iterable[tuple[str, str]]) -> None:
        notes = dict(people)
        there = self._there(list(notes))
        self._add_people([(name, text) for name, text in notes.items() if name not in there])
        silent = [row for row in there.values() if not row["notes"] and notes[row["name"]]]
        self._noted += silent
        self._connection.upsert(
            self._head.people,
            [person_row(int(row["id"]), row["name"], notes[row["name"]]) for row in silent],
        )

    def insert_faces(self, new: NewFaces) -> Sequence[int]:
        owners = self.people_ids(new.people)
        numbers = self._numbers(len(new.people))
        rows = [
            face_row(number, owners[key], row, photo, box, quality, added)
            for number, key, row, photo, box, quality, added in zip(
                numbers,
                new.people,
                new.embeddings,
                new.photos,
                new.boxes,
                new.qualities,
                new.added,
                strict=True,
            )
        ]
        # Before they are written, as an error may come after some of them were.
        self._faces += numbers
        self._connection.insert(self._head.faces, rows)
        return numbers

    def people_ids(self, keys: Sequence[PersonKey]) -> dict[PersonKey, int]:
        """The ids of people, who are added if they are not there by a name that is given.

        Raises:
            PocketNetError: There is no person with an id that is given.
        """
        names = [key for key in dict.fromkeys(keys) if isinstance(key, str)]
        numbers = [int(key) for key in dict.fromkeys(keys) if not isinstance(key, str)]
        held = {int(row["id"]) for row in self._connection.get(self._head.people, numbers, ["id"])}
        for number in numbers:
            if number not in held:
                raise PocketNetError(f"{self._connection.address.text}: nobody is with the id {number}")
        for name in names:
            check_name(name)
        found: dict[PersonKey, int] = {number: number for number in numbers}
        there = self._there(names)
        found |= {name: int(row["id"]) for name, row in there.items()}
        return found | self._add_people([(name, "") for name in names if name not in there])

    def take_back(self) -> None:
        """Remove what was added, as far as Milvus can be reached."""
        with contextlib.suppress(PocketNetError):
            self._connection.delete(self._head.faces, self._faces)
            self._connection.delete(self._head.people, self._people)
            self._connection.upsert(
                self._head.people,
                [person_row(int(row["id"]), row["name"], row["notes"]) for row in self._noted],
            )

    def _there(self, names: Sequence[str]) -> dict[str, Row]:
        rows = people_named(self._connection, self._head, names)
        # Where a name is there twice, the first of them has it.
        return {row["name"]: row for row in sorted(rows, key=lambda row: -int(row["id"]))}

    def _add_people(self, people: Sequence[tuple[str, str]]) -> dict[PersonKey, int]:
        numbers = self._numbers(len(people))
        rows = [person_row(number, *one) for number, one in zip(numbers, people, strict=True)]
        self._people += numbers
        self._connection.insert(self._head.people, rows)
        return {name: number for number, (name, _) in zip(numbers, people, strict=True)}

    def _numbers(self, count: int) -> list[int]:
        """Numbers that Milvus never gave before and never gives again, rising."""
        numbers = self._connection.insert(self._head.ids, [{"nothing": NOTHING}] * count)
        # Their entities have done what they are for.
        self._connection.delete(self._head.ids, numbers)
        return sorted(int(number) for number in numbers)


def people_named(connection: Connection, head: Head, names: Sequence[str]) -> list[Row]:
    """The people who have one of these names."""
    keys = [name_key(name) for name in names]
    return connection.query_any(head.people, "name_sha256", keys, PERSON)
