"""What the commands about galleries share: options, who is meant, and how names are shown."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from pocketnet_fast.cli.options import FaceOptions, ManyFacesOptions

if TYPE_CHECKING:
    from pocketnet_fast.faces.pipeline import Embedder
    from pocketnet_fast.faces.sources import FaceSource
    from pocketnet_fast.gallery.gallery import Gallery
    from pocketnet_fast.gallery.people import FaceEntry, PersonKey
    from pocketnet_fast.gallery.space import EmbeddingSpace

PLACE: Final = "The gallery's file; or milvus:http://HOST:PORT/NAME, or milvus:FILE.db#NAME (extra milvus)."
Where = Annotated[str, typer.Argument(metavar="GALLERY", help=PLACE)]
Who = Annotated[
    str, typer.Argument(metavar="PERSON", help="The name of a person, or id:N, as `gallery list` shows it.")
]
GalleryFlip = Annotated[
    bool,
    typer.Option(
        "--flip/--no-flip", help="Add the embeddings of the mirror images; queries must do the same."
    ),
]

_SHOWN: Final = 60


@dataclass(frozen=True)
class GalleryFaces(FaceOptions):
    """How a few photos become faces that are compared with a gallery's."""

    flip: GalleryFlip = True


@dataclass(frozen=True)
class ManyGalleryFaces(ManyFacesOptions):
    """How many photos become faces of a gallery."""

    flip: GalleryFlip = True


def person_key(text: str) -> PersonKey:
    """Who is meant by what was given on the command line."""
    by_id = re.fullmatch(r"id:([0-9]+)", text)
    return int(by_id[1]) if by_id else text


def shown(name: str) -> str:
    """A name on one line, without what moves a terminal's cursor, and cut where it is long."""
    return on_one_line(name) if len(name) <= _SHOWN else f"{on_one_line(name[:_SHOWN])}..."


def on_one_line(text: str) -> str:
    """A text with its line breaks, and whatever else moves a terminal's cursor, written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def day(seconds: int) -> str:
    """A time as text, UTC."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M")


def face_fields(face: FaceEntry) -> dict[str, Any]:
    """A face as JSON has it."""
    added = datetime.fromtimestamp(face.added, timezone.utc).isoformat()
    return {"id": face.id, "photo": face.photo, "box": face.box, "quality": face.quality, "added": added}


def matching_source(options: FaceOptions, gallery: Gallery, where: str) -> FaceSource:
    """Build what embeds faces to be compared with those of a gallery.

    Raises:
        PocketNetError: Its embeddings are of another space than the gallery's.
    """
    source = options.source()
    gallery.space.require_same(space_of(source.embedder), where)
    return source


def space_of(embedder: Embedder) -> EmbeddingSpace:
    """The space of the embeddings that an embedder makes."""
    from pocketnet_fast.gallery.space import EmbeddingSpace

    return EmbeddingSpace(embedder.model_name, embedder.weights_sha256, embedder.flip, embedder.embedding_dim)
