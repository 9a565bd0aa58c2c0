"""Embedded faces as parquet: a row a face, with what made the embeddings in the file's metadata."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from pocketnet_fast.data.parquet_file import require_pyarrow
from pocketnet_fast.data.stored_images import AnyImage, StoredImage
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.faces.sources import EmbeddedFace

_METADATA: Final = b"pocketnet_fast"
_BOX: Final = ("left", "top", "width", "height")


def part_name(number: int, parts: int) -> str:
    """The file of a part, as in ``00002-of-00008.parquet``."""
    return f"{number:05d}-of-{parts:05d}.parquet"


def images_sha256(images: Sequence[AnyImage]) -> str:
    """A hash of which images a part is made of, and in which order; not of their content."""
    digest = hashlib.sha256()
    for image in images:
        place = image.place if isinstance(image, StoredImage) else image
        digest.update(place.encode(errors="surrogateescape") + b"\0")
    return digest.hexdigest()


def write_faces(stream: BinaryIO, faces: Sequence[EmbeddedFace], about: dict[str, Any]) -> None:
    """Write faces; docs/embedding_photos.md describes the columns.

    Args:
        stream: Where to.
        faces: Any number.
        about: Becomes JSON in the metadata ``pocketnet_fast``.

    Raises:
        PocketNetError: pyarrow is not installed.
    """
    arrow = require_pyarrow()
    from pyarrow import parquet

    chosen = [face.faces[0] if face.faces else None for face in faces]
    floats = arrow.list_(arrow.float32())
    photos: dict[str, int] = {}
    places = []
    for face in faces:
        photos[face.path] = photos.get(face.path, -1) + 1
        places.append(photos[face.path])
    columns = {
        # A path that is no text is written as the command line shows it.
        "file": arrow.array([_text(face.path) for face in faces], arrow.string()),
        "face": arrow.array(places, arrow.int32()),
        "faces": arrow.array([len(face.faces) for face in faces], arrow.int32()),
        **{
            side: arrow.array([None if one is None else float(one.box[i]) for one in chosen], arrow.float64())
            for i, side in enumerate(_BOX)
        },
        "landmarks": arrow.array(
            [None if one is None else np.asarray(one.landmarks, np.float32).ravel() for one in chosen], floats
        ),
        "score": arrow.array([None if one is None else one.score for one in chosen], arrow.float32()),
        "quality": arrow.array([None if one is None else one.quality for one in chosen], arrow.float32()),
        "norm": arrow.array([face.norm for face in faces], arrow.float32()),
        # No list of fixed size, which not every reader takes: Milvus' import wants a list.
        "embedding": arrow.array([face.embedding for face in faces], floats),
    }
    metadata = {_METADATA: json.dumps(about).encode()}
    parquet.write_table(arrow.table(columns).replace_schema_metadata(metadata), stream)


def read_about(path: Path) -> dict[str, Any]:
    """What ``write_faces`` was given as ``about``.

    Raises:
        PocketNetError: It is another file, or damaged.
    """
    arrow = require_pyarrow()
    from pyarrow import parquet

    try:
        metadata = parquet.read_schema(path).metadata or {}
        about = json.loads(metadata[_METADATA])
    except (OSError, arrow.ArrowException, KeyError, ValueError, RecursionError):
        about = None
    if not isinstance(about, dict):
        raise PocketNetError(f"{path}: no embeddings that `pocketnet embed` wrote, or damaged; remove it")
    return about


def count_rows(path: Path) -> int:
    """How many faces a file holds, by its end."""
    from pyarrow import parquet

    return int(parquet.read_metadata(path).num_rows)


def _text(path: str) -> str:
    return path.encode(errors="surrogateescape").decode(errors="backslashreplace")
