"""The collections of a gallery on Milvus, and entities as people and faces.

``NAME`` holds one entity, which says what the gallery is and where the rest lies: writing it is what makes a
gallery, or replaces one. The others are ``NAME_people_X``, ``NAME_faces_X`` and ``NAME_ids_X`` with X the
first digits of the gallery's uuid. Milvus wants a vector in every collection; where there is none, it is
``nothing``, two zeros.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from dataclasses import asdict, dataclass
from typing import Any, Final

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.gallery.milvus.connection import Connection, Field, Row
from pocketnet_fast.gallery.people import Box, FaceEntry, Person
from pocketnet_fast.gallery.space import EmbeddingSpace

FORMAT: Final = "pocketnet gallery"
VERSION: Final = 1
KEY: Final = "gallery"
TEXT_BYTES: Final = 65_535
"""The longest name, notes, and text that says where a face comes from: what a field of Milvus holds."""

NOTHING: Final = [0.0, 0.0]
EMBEDDING: Final = "embedding"
FACE: Final = (
    "id",
    "person",
    "photo",
    "box_left",
    "box_top",
    "box_width",
    "box_height",
    "quality",
    "added",
)
PERSON: Final = ("id", "name", "notes")

_KINDS: Final = ("people", "faces", "ids")
_TEXT: Final = {"max_length": TEXT_BYTES}
_NO_VECTOR: Final[Field] = ("nothing", "FLOAT_VECTOR", {"dim": len(NOTHING)})
_HEAD_FIELDS: Final[list[Field]] = [
    ("key", "VARCHAR", {"max_length": 64, "is_primary": True}),
    ("about", "VARCHAR", _TEXT),
    _NO_VECTOR,
]
_ID_FIELDS: Final[list[Field]] = [("id", "INT64", {"is_primary": True}), _NO_VECTOR]
_PERSON_FIELDS: Final[list[Field]] = [
    ("id", "INT64", {"is_primary": True}),
    ("name", "VARCHAR", _TEXT),
    ("name_sha256", "VARCHAR", {"max_length": 64}),
    ("notes", "VARCHAR", _TEXT),
    _NO_VECTOR,
]
_FACE_FIELDS: Final[list[Field]] = [
    ("id", "INT64", {"is_primary": True}),
    ("person", "INT64", {}),
    ("photo", "VARCHAR", _TEXT),
    *((side, "DOUBLE", {"nullable": True}) for side in FACE[3:8]),
    ("added", "INT64", {}),
]


@dataclass(frozen=True)
class Head:
    """What a gallery is.

    Attributes:
        uuid: The uuid of this gallery.
        name_by: How names were made of photos; empty if it is not known.
        space: The space of its embeddings.
        people: The collection of its people.
        faces: The collection of its faces.
        ids: The collection that gives numbers.
    """

    uuid: str
    name_by: str
    space: EmbeddingSpace
    people: str
    faces: str
    ids: str

    @property
    def collections(self) -> list[str]:
        """Those that are of this gallery alone."""
        return [self.people, self.faces, self.ids]


def new_head(name: str, space: EmbeddingSpace, name_by: str) -> Head:
    """A gallery that is not there yet."""
    number = str(uuid.uuid4())
    people, faces, ids = (f"{name}_{kind}_{number[:8]}" for kind in _KINDS)
    return Head(number, name_by, space, people, faces, ids)


def left_behind(connection: Connection, head: Head) -> list[str]:
    """Collections as those of a gallery of this name that are of no gallery."""
    own = re.compile(f"{connection.address.name}_({'|'.join(_KINDS)})_[0-9a-f]{{8}}")
    there = connection.collections()
    return sorted(name for name in there if own.fullmatch(name) and name not in head.collections)


def make_collections(connection: Connection, head: Head) -> None:
    """Make the empty collections of a gallery.

    Raises:
        PocketNetError: Milvus refuses, as for dimensions that it does not have.
    """
    embedding: Field = (EMBEDDING, "FLOAT_VECTOR", {"dim": head.space.dimensions})
    schema = connection.make_schema([*_FACE_FIELDS, embedding], auto_id=False)
    connection.create(head.faces, schema, EMBEDDING, ["person"])
    schema = connection.make_schema(_PERSON_FIELDS, auto_id=False)
    connection.create(head.people, schema, _NO_VECTOR[0], ["name_sha256"])
    connection.create(head.ids, connection.make_schema(_ID_FIELDS, auto_id=True), _NO_VECTOR[0])


def make_head(connection: Connection) -> None:
    """Make the collection that will say what the gallery is."""
    schema = connection.make_schema(_HEAD_FIELDS, auto_id=False)
    connection.create(connection.address.name, schema, _NO_VECTOR[0])


def write_head(connection: Connection, head: Head) -> None:
    """Let the gallery be this one, in one step."""
    about = {"format": FORMAT, "version": VERSION, "uuid": head.uuid, "name_by": head.name_by}
    about |= {"people": head.people, "faces": head.faces, "ids": head.ids} | asdict(head.space)
    entity = {"key": KEY, "about": json.dumps(about), "nothing": NOTHING}
    connection.upsert(connection.address.name, [entity])


def read_head(connection: Connection) -> Head | None:
    """What the gallery is; None if it is none yet.

    Raises:
        PocketNetError: There is no such collection, or one that is no gallery of this version.
    """
    where, name = connection.address.text, connection.address.name
    if not connection.has(name):
        raise PocketNetError(f"{where}: no such gallery; `pocketnet gallery build` makes one")
    if set(connection.fields(name)) != {field[0] for field in _HEAD_FIELDS}:
        raise PocketNetError(f"{where}: a collection, but no gallery; it was not made by pocketnet_fast")
    connection.load(name)
    found = connection.get(name, [KEY], ["about"])
    if not found:
        return None
    try:
        about = json.loads(found[0]["about"])
        if about["format"] != FORMAT:
            raise PocketNetError(f"{where}: a collection, but no gallery; it was not made by pocketnet_fast")
        if about["version"] != VERSION:
            raise PocketNetError(
                f"{where}: a gallery of version {about['version']}; this program knows version {VERSION}"
            )
        space = EmbeddingSpace(
            about["model"], about["weights_sha256"], bool(about["flip"]), int(about["dimensions"])
        )
        return Head(about["uuid"], about["name_by"], space, *(str(about[kind]) for kind in _KINDS))
    except PocketNetError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise PocketNetError(f"{where}: damaged: {type(error).__name__} {error}") from None


def require_collections(connection: Connection, head: Head) -> None:
    """See that what a gallery names is there and as it has to be, and make it answer.

    Raises:
        PocketNetError: Says what is not.
    """
    where = connection.address.text
    for collection in head.collections:
        if not connection.has(collection):
            raise PocketNetError(f"{where}: damaged: its collection {collection} is missing")
        connection.load(collection)
    fields = connection.fields(head.faces)
    held = int(fields.get(EMBEDDING, {}).get("params", {}).get("dim", 0))
    if held != head.space.dimensions:
        raise PocketNetError(
            f"{where}: damaged: the embeddings of its collection {head.faces} have {held} dimensions, not "
            f"{head.space.dimensions}"
        )


def name_key(name: str) -> str:
    """What a person is found by whose name may be any text, as no filter's syntax lets it be."""
    return hashlib.sha256(name.encode()).hexdigest()


def check_length(text: str, what: str) -> None:
    """Refuse a text that no field of Milvus holds.

    Raises:
        PocketNetError: It is longer than ``TEXT_BYTES``.
    """
    size = len(text.encode())
    if size > TEXT_BYTES:
        raise PocketNetError(
            f"the {what} {text[:40]!r}... has {size:,} bytes; a gallery on Milvus takes {TEXT_BYTES:,}"
        )


def person_row(number: int, name: str, notes: str) -> Row:
    """A person as an entity.

    Raises:
        PocketNetError: See ``check_length``.
    """
    check_length(name, "name")
    check_length(notes, "notes")
    return {"id": number, "name": name, "name_sha256": name_key(name), "notes": notes, "nothing": NOTHING}


def face_row(
    number: int,
    person: int,
    embedding: Any,
    photo: str,
    box: Box | None,
    quality: float | None,
    added: int,
) -> Row:
    """A face as an entity.

    Raises:
        PocketNetError: See ``check_length``.
    """
    check_length(photo, "photo")
    sides = [None] * 4 if box is None else [float(side) for side in box]
    values = [number, person, photo, *sides, None if quality is None else float(quality), int(added)]
    return dict(zip(FACE, values, strict=True)) | {EMBEDDING: embedding}


def as_person(row: Row, faces: int) -> Person:
    """An entity as a person with so many faces."""
    return Person(int(row["id"]), row["name"], row["notes"], faces)


def as_face(row: Row) -> FaceEntry:
    """An entity as a face."""
    number, person, photo, *box, quality, added = (row[field] for field in FACE)
    sides = None if box[0] is None else (box[0], box[1], box[2], box[3])
    return FaceEntry(int(number), int(person), photo, sides, quality, int(added))
