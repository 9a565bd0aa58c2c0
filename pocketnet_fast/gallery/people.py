"""The people of a gallery and their faces: statements within a transaction that has begun."""

from __future__ import annotations

import math
import os
import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pocketnet_fast.errors import PocketNetError

Box = tuple[float, float, float, float]
PersonKey = int | str
"""A person's id or name."""

_FACE = "id, person, photo, box_left, box_top, box_width, box_height, quality, added"


@dataclass(frozen=True)
class Person:
    """Somebody whom a gallery knows.

    Attributes:
        id: Never given to anybody else.
        name: Any text but the empty one; no two persons of a gallery have the same.
        notes: Any text.
        faces: How many faces of this person there are.
    """

    id: int
    name: str
    notes: str
    faces: int


@dataclass(frozen=True)
class FaceEntry:
    """A face that a gallery holds, without its embedding.

    Attributes:
        id: Never given to another face.
        person: Whose it is, an id.
        photo: Where it comes from, as text for people; may be empty.
        box: left, top, width, height in pixels of the photo, or None.
        quality: 0 to 1 (``Face.quality``), or None.
        added: When it was added, seconds since 1970, UTC.
    """

    id: int
    person: int
    photo: str
    box: Box | None
    quality: float | None
    added: int


@dataclass(frozen=True)
class NewFaces:
    """Faces that are to be added; all sequences are of one length.

    Attributes:
        people: Names, or ids of people who are there. Who is not there by that name is added.
        embeddings: N x D float32 of length 1.
        photos: Texts.
        boxes: left, top, width, height each, or None.
        qualities: 0 to 1 each, or None.
        added: Seconds since 1970, UTC.
    """

    people: Sequence[PersonKey]
    embeddings: npt.NDArray[np.float32]
    photos: Sequence[str]
    boxes: Sequence[Box | None]
    qualities: Sequence[float | None]
    added: Sequence[int]


def new_faces(
    people: Sequence[PersonKey],
    embeddings: npt.NDArray[np.float32],
    photos: Sequence[str] | None,
    boxes: Sequence[Box | None] | None,
    qualities: Sequence[float | None] | None,
    added: Sequence[int] | None = None,
) -> NewFaces:
    """Check what is to be added; see ``Gallery.add``."""
    count = len(embeddings)
    given = NewFaces(
        people,
        embeddings,
        photos if photos is not None else [""] * count,
        boxes if boxes is not None else [None] * count,
        qualities if qualities is not None else [None] * count,
        added if added is not None else [int(time.time())] * count,
    )
    lengths = {
        "people": len(people),
        "photos": len(given.photos),
        "boxes": len(given.boxes),
        "qualities": len(given.qualities),
        "times": len(given.added),
    }
    for what, length in lengths.items():
        if length != count:
            raise PocketNetError(f"{length} {what} do not belong to {count} embeddings")
    for key in dict.fromkeys(people):
        if isinstance(key, str):
            check_name(key)
    for photo in given.photos:
        check_text(photo, "photo")
    for box in given.boxes:
        if box is not None and not (len(box) == 4 and all(math.isfinite(side) for side in box)):
            raise PocketNetError(f"{box!r} is no box; expected left, top, width and height, all finite")
    for quality in given.qualities:
        if quality is not None and not 0 <= quality <= 1:
            raise PocketNetError(f"a quality is {quality!r}; expected 0 to 1, or None")
    return given


def check_name(name: str) -> None:
    """Refuse what a gallery does not take as a name.

    Raises:
        PocketNetError: It is empty, or see ``check_text``.
    """
    if not name:
        raise PocketNetError("a name is empty; expected some text")
    check_text(name, "name")


def check_text(text: str, what: str) -> None:
    """Refuse what a gallery does not take as text.

    Raises:
        PocketNetError: It has the character U+0000, or half a surrogate pair, as names of files have that are
            not in UTF-8.
    """
    if "\0" in text:
        raise PocketNetError(f"the {what} {text!r} has the character U+0000, which a gallery does not take")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PocketNetError(
            f"the {what} {text!r} is no Unicode text, as of a file whose name is not in UTF-8"
        ) from None


def as_text(path: str | os.PathLike[str]) -> str:
    """A file's path as text that a gallery takes; bytes that are not UTF-8 are written like ``\\xff``."""
    return os.fsencode(path).decode(errors="backslashreplace")


def all_people(connection: sqlite3.Connection, after: int, limit: int | None) -> list[Person]:
    """People in the order of their ids."""
    return [
        Person(*row)
        for row in connection.execute(
            "SELECT p.id, p.name, p.notes, (SELECT count(*) FROM face AS f WHERE f.person = p.id) FROM "
            "(SELECT * FROM person WHERE id > ? ORDER BY id LIMIT ?) AS p ORDER BY p.id",
            (after, -1 if limit is None else limit),
        )
    ]


def the_person(connection: sqlite3.Connection, key: PersonKey, where: object) -> Person:
    """A person by id or name.

    Raises:
        PocketNetError: There is none.
    """
    column = "name" if isinstance(key, str) else "id"
    if isinstance(key, str):
        check_name(key)
    found = connection.execute(
        "SELECT p.id, p.name, p.notes, (SELECT count(*) FROM face AS f WHERE f.person = p.id) "
        f"FROM person AS p WHERE p.{column} = ?",
        (key,),
    ).fetchone()
    if found is None:
        who = f"named {key!r}" if isinstance(key, str) else f"with the id {key}"
        raise PocketNetError(f"{where}: nobody is {who}")
    return Person(*found)


def faces_of(connection: sqlite3.Connection, person: int) -> list[FaceEntry]:
    """A person's faces in the order of their ids."""
    rows = connection.execute(f"SELECT {_FACE} FROM face WHERE person = ? ORDER BY id", (person,))
    return [_entry(row) for row in rows]


def all_faces(
    connection: sqlite3.Connection, dimensions: int
) -> tuple[list[FaceEntry], npt.NDArray[np.float32]]:
    """All faces in the order of their ids, and their embeddings, N x D."""
    rows = connection.execute(f"SELECT {_FACE}, embedding FROM face ORDER BY id").fetchall()
    embeddings = np.frombuffer(b"".join(row[-1] for row in rows), "<f4").reshape(-1, dimensions)
    return [_entry(row[:-1]) for row in rows], embeddings


def the_face(connection: sqlite3.Connection, face: int, where: object) -> FaceEntry:
    """A face by its id.

    Raises:
        PocketNetError: There is none.
    """
    found = connection.execute(f"SELECT {_FACE} FROM face WHERE id = ?", (face,)).fetchone()
    if found is None:
        raise PocketNetError(f"{where}: there is no face with the id {face}")
    return _entry(found)


def embeddings_of(connection: sqlite3.Connection, person: int, dimensions: int) -> npt.NDArray[np.float32]:
    """A person's embeddings, N x D, in the order of their faces' ids."""
    rows = connection.execute("SELECT embedding FROM face WHERE person = ? ORDER BY id", (person,))
    return np.frombuffer(b"".join(row[0] for row in rows), "<f4").reshape(-1, dimensions)


def insert_faces(connection: sqlite3.Connection, new: NewFaces, where: object) -> list[int]:
    """Add faces, and people who are not there; returns the ids of the faces.

    Raises:
        PocketNetError: There is no person with an id that is given.
    """
    ids = {key: _person_id(connection, key, where) for key in dict.fromkeys(new.people)}
    rows = np.ascontiguousarray(new.embeddings, "<f4")
    return [
        connection.execute(
            "INSERT INTO face (person, embedding, photo, box_left, box_top, box_width, box_height, quality, "
            "added) VALUES (?,?,?,?,?,?,?,?,?)",
            (ids[key], row.data, photo, *map(float, box or ()), *_no_box(box), quality, added),
        ).lastrowid
        or 0
        for key, row, photo, box, quality, added in zip(
            new.people, rows, new.photos, new.boxes, new.qualities, new.added, strict=True
        )
    ]


def insert_people(connection: sqlite3.Connection, people: Iterable[tuple[str, str]]) -> None:
    """Add people by name and notes; who is there by that name keeps the notes, unless there are none."""
    connection.executemany(
        "INSERT INTO person (name, notes) VALUES (?,?) ON CONFLICT (name) DO UPDATE SET notes = "
        "excluded.notes WHERE notes = '' AND excluded.notes <> ''",
        people,
    )


def rename(connection: sqlite3.Connection, key: PersonKey, name: str, where: object) -> None:
    """Give a person another name.

    Raises:
        PocketNetError: There is no such person, the name is none, or somebody else has it.
    """
    check_name(name)
    person = the_person(connection, key, where)
    if person.name == name:
        return
    if connection.execute("SELECT 1 FROM person WHERE name = ?", (name,)).fetchone() is not None:
        raise PocketNetError(f"{where}: somebody is named {name!r} already; merge the two if they are one")
    connection.execute("UPDATE person SET name = ? WHERE id = ?", (name, person.id))


def set_notes(connection: sqlite3.Connection, key: PersonKey, notes: str, where: object) -> None:
    """Replace a person's notes.

    Raises:
        PocketNetError: There is no such person.
    """
    check_text(notes, "notes")
    connection.execute(
        "UPDATE person SET notes = ? WHERE id = ?", (notes, the_person(connection, key, where).id)
    )


def merge(connection: sqlite3.Connection, source: PersonKey, into: PersonKey, where: object) -> Person:
    """Give all faces of one person to another and delete the first; returns the second.

    Notes are joined, line by line.

    Raises:
        PocketNetError: One of them is not there, or they are the same.
    """
    one, other = the_person(connection, source, where), the_person(connection, into, where)
    if one.id == other.id:
        raise PocketNetError(f"{where}: {one.name!r} cannot be merged with the same person")
    connection.execute("UPDATE face SET person = ? WHERE person = ?", (other.id, one.id))
    if one.notes:
        set_notes(connection, other.id, "\n".join(filter(None, [other.notes, one.notes])), where)
    connection.execute("DELETE FROM person WHERE id = ?", (one.id,))
    return the_person(connection, other.id, where)


def move_face(connection: sqlite3.Connection, face: int, to: PersonKey, where: object) -> None:
    """Give a face to another person; a name that nobody has makes a new one.

    Raises:
        PocketNetError: There is no such face, or no person with that id.
    """
    the_face(connection, face, where)
    connection.execute("UPDATE face SET person = ? WHERE id = ?", (_person_id(connection, to, where), face))


def delete_face(connection: sqlite3.Connection, face: int, where: object) -> None:
    """Delete a face; its person stays.

    Raises:
        PocketNetError: There is no such face.
    """
    the_face(connection, face, where)
    connection.execute("DELETE FROM face WHERE id = ?", (face,))


def delete_person(connection: sqlite3.Connection, key: PersonKey, where: object) -> Person:
    """Delete a person and all faces of this person; returns who it was.

    Raises:
        PocketNetError: There is no such person.
    """
    person = the_person(connection, key, where)
    connection.execute("DELETE FROM person WHERE id = ?", (person.id,))
    return person


def _person_id(connection: sqlite3.Connection, key: PersonKey, where: object) -> int:
    if not isinstance(key, str):
        return the_person(connection, int(key), where).id
    check_name(key)
    connection.execute("INSERT INTO person (name) VALUES (?) ON CONFLICT (name) DO NOTHING", (key,))
    found: int = connection.execute("SELECT id FROM person WHERE name = ?", (key,)).fetchone()[0]
    return found


def _no_box(box: Box | None) -> list[None]:
    return [None] * 4 if box is None else []


def _entry(row: tuple[object, ...]) -> FaceEntry:
    number, person, photo, *box, quality, added = row
    sides = None if box[0] is None else tuple(box)
    return FaceEntry(number, person, photo, sides, quality, added)  # type: ignore[arg-type]
