"""Galleries of the earlier format, a folder of rows: read, checked, and made anew.

The folder holds ``manifest.json``, which names three files and states how many of their bytes count, with
checksums: N x D float32 embeddings of length 1; for each row a line with the name and a line with the photo;
and N uint64 that say where the lines of each row end.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.gallery.gallery import Gallery
from pocketnet_fast.gallery.people import check_name, new_faces
from pocketnet_fast.gallery.schema import NAMED_BY
from pocketnet_fast.gallery.space import EmbeddingSpace, rows_of_other_length, stated_space
from pocketnet_fast.gallery.store import Location

MANIFEST: Final = "manifest.json"
_FORMAT: Final = "pocketnet gallery 1"
_PARTS: Final = ("embeddings", "entries", "ends")


@dataclass(frozen=True, eq=False)
class OldGallery:
    """What a folder holds.

    Attributes:
        space: The space of the embeddings.
        name_by: How names were made of photos; empty if it is not known.
        names: N.
        photos: N; may be empty.
        embeddings: N x D float32.
    """

    space: EmbeddingSpace
    name_by: str
    names: list[str]
    photos: list[str]
    embeddings: npt.NDArray[np.float32]


def migrate(folder: Path, path: Location, *, overwrite: bool = False) -> Gallery:
    """Make a gallery of a folder of the earlier format, which stays as it is, and compare the two.

    Rows of one name become one person.

    Args:
        folder: The old gallery.
        path: The new one's place, see ``Gallery``.
        overwrite: Replace a gallery that is there.

    Raises:
        PocketNetError: There is no such gallery, it is damaged, or the new one cannot be written or differs.
    """
    old = read_old_gallery(folder)
    # Rows that differ from length 1 by more than rounding are damaged, so none is changed here.
    new = new_faces(old.names, old.embeddings, old.photos, None, None)
    gallery = Gallery.create(
        path,
        old.space,
        name_by=old.name_by,
        overwrite=overwrite,
        fill=lambda writer: writer.insert_faces(new),
    )
    _require_equal(old, gallery)
    return gallery


def read_old_gallery(folder: Path) -> OldGallery:
    """Read a folder and compare it with its checksums.

    Raises:
        PocketNetError: No gallery of that format, or damage; the message names the file.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != _FORMAT:
            raise PocketNetError(f"{path}: no gallery of the format {_FORMAT!r}")
        space, count = stated_space(content["space"], f"{path}: damaged: its space"), int(content["rows"])
        data = {part: _content(folder, content, part) for part in _PARTS}
        name_by = str(content.get("name_by", ""))
    except PocketNetError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise PocketNetError(
            f"{error.filename}: missing; {folder} is no gallery of earlier versions"
        ) from None
    except OSError as error:
        raise PocketNetError(f"{error.filename} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise PocketNetError(f"{path}: damaged: {type(error).__name__} {error}") from None
    if len(data["embeddings"]) != 4 * space.dimensions * count or len(data["ends"]) != 8 * count:
        raise PocketNetError(f"{path}: damaged: its files do not fit the {count} rows that it states")
    rows = np.frombuffer(data["embeddings"], "<f4").reshape(count, space.dimensions)
    wrong = rows_of_other_length(rows)
    if len(wrong):
        raise PocketNetError(f"{folder}: damaged: row {wrong[0]} has no length of 1")
    entries = _entries(folder, data["entries"], np.frombuffer(data["ends"], "<u8").tolist())
    names, photos = [name for name, _ in entries], [photo for _, photo in entries]
    for name in dict.fromkeys(names):
        check_name(name)
    return OldGallery(space, name_by if name_by in NAMED_BY else "", names, photos, rows)


def _content(folder: Path, manifest: dict[str, Any], part: str) -> bytes:
    name, size = str(manifest["files"][part]), int(manifest["bytes"][part])
    if Path(name).name != name:
        raise PocketNetError(f"{folder / MANIFEST}: damaged: it names files outside its folder")
    # A writer that was killed left bytes behind those that count.
    content = (folder / name).read_bytes()[:size]
    if len(content) != size or zlib.crc32(content) != int(manifest["crc32"][part]):
        raise PocketNetError(f"{folder / name}: damaged: it is truncated, or its checksum does not match")
    return content


def _entries(folder: Path, content: bytes, ends: list[int]) -> list[tuple[str, str]]:
    entries, start = [], 0
    for row, end in enumerate(ends):
        lines = content[start:end].split(b"\n") if start < end <= len(content) else []
        if len(lines) != 3 or lines[2]:
            raise PocketNetError(
                f"{folder}: damaged: the entry of row {row} is no name and photo, line by line"
            )
        try:
            entries.append((lines[0].decode(), lines[1].decode()))
        except UnicodeDecodeError as error:
            raise PocketNetError(f"{folder}: damaged: the entry of row {row}: {error}") from None
        start = end
    return entries


def _require_equal(old: OldGallery, gallery: Gallery) -> None:
    held = gallery.contents()
    if len(held.faces) != len(old.names) or len(held.people) != len(set(old.names)):
        raise PocketNetError(
            f"{gallery.path}: holds {len(held.people)} people with {len(held.faces)} faces, other than the "
            "old gallery"
        )
    name_of = {person.id: person.name for person in held.people}
    found = zip(held.faces, held.embeddings, strict=True)
    expected = zip(old.names, old.photos, old.embeddings, strict=True)
    for number, ((face, row), (name, photo, old_row)) in enumerate(zip(found, expected, strict=True)):
        if (name_of[face.person], face.photo) != (name, photo) or not np.array_equal(row, old_row):
            raise PocketNetError(f"{gallery.path}: row {number} differs from that of the old gallery")
