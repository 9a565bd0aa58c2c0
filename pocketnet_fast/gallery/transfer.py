"""Galleries as files that other programs read: .npz, .csv, .parquet.

Each has one row a face (a person without faces has one without a face) and says of which embedding space it
is. Embeddings come back bit for bit.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from pocketnet_fast.data.parquet_file import require_pyarrow
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.files import atomic_write
from pocketnet_fast.gallery.gallery import Gallery
from pocketnet_fast.gallery.people import Box, check_name, check_text, new_faces
from pocketnet_fast.gallery.space import EmbeddingSpace, stated_space, unit_rows
from pocketnet_fast.gallery.store import Writer

FORMATS: Final = (".npz", ".csv", ".parquet")
_TEXTS: Final = ("name", "notes", "photo")
_BOX: Final = ("left", "top", "width", "height")
_SPACE: Final = ("model", "weights_sha256", "flip", "dimensions")
# Of one field of a CSV file: names may be long.
_FIELD: Final = 1 << 30


@dataclass(frozen=True, eq=False)
class Table:
    """The faces of a gallery, a row each, and the people who have none.

    Attributes:
        space: The space of the embeddings.
        name: N names.
        notes: N notes of persons.
        photo: N texts.
        box: N x 4 float64; NaN where there is none.
        quality: N float64; NaN where there is none.
        added: N int64, seconds since 1970, UTC.
        embedding: N x D float32.
        alone: Name and notes of everybody without a face.
    """

    space: EmbeddingSpace
    name: Sequence[str]
    notes: Sequence[str]
    photo: Sequence[str]
    box: npt.NDArray[np.float64]
    quality: npt.NDArray[np.float64]
    added: npt.NDArray[np.int64]
    embedding: npt.NDArray[np.float32]
    alone: Sequence[tuple[str, str]]


def check_format(path: Path) -> str:
    """The kind of file, by its name.

    Raises:
        PocketNetError: It is none of ``FORMATS``, or pyarrow is not installed.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise PocketNetError(f"{path}: unknown kind of file; expected {', '.join(FORMATS)}")
    if suffix == ".parquet":
        require_pyarrow()
    return suffix


def export_gallery(gallery: Gallery, path: Path) -> int:
    """Write all people and faces of one state; returns the number of faces.

    Raises:
        PocketNetError: An unknown kind of file, or it cannot be written.
    """
    suffix = check_format(path)
    with atomic_write(path) as stream:
        table = read_table(gallery)
        {".npz": _write_npz, ".csv": _write_csv, ".parquet": _write_parquet}[suffix](table, stream)
    return len(table.name)


def read_table(gallery: Gallery) -> Table:
    """All people and faces of one state."""
    held = gallery.contents()
    owner = {person.id: person for person in held.people}
    no_box = (np.nan,) * 4
    return Table(
        gallery.space,
        [owner[face.person].name for face in held.faces],
        [owner[face.person].notes for face in held.faces],
        [face.photo for face in held.faces],
        np.array([face.box or no_box for face in held.faces], np.float64).reshape(-1, 4),
        np.array([face.quality for face in held.faces], np.float64),
        np.array([face.added for face in held.faces], np.int64),
        held.embeddings,
        [(person.name, person.notes) for person in held.people if person.faces == 0],
    )


def import_table(path: Path) -> Table:
    """Read what ``export_gallery`` wrote.

    Raises:
        PocketNetError: It cannot be read, or is another file.
    """
    suffix = check_format(path)
    try:
        with path.open("rb") as stream:
            return {".npz": _read_npz, ".csv": _read_csv, ".parquet": _read_parquet}[suffix](stream)
    except OSError as error:
        raise PocketNetError(f"{path} cannot be read: {error.strerror or error}") from None
    except MemoryError:
        raise PocketNetError(f"{path} is no exported gallery: it states more than fits into memory") from None
    except Exception as error:
        # csv, zipfile, numpy, json and pyarrow raise many unrelated types on damaged files.
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise PocketNetError(f"{path} is no exported gallery: {reason}") from None


def import_into(writer: Writer, table: Table) -> int:
    """Add all people and faces of a table; returns the number of faces.

    People of the same name are one person.

    Raises:
        PocketNetError: A name or an embedding is none.
    """
    everybody = dict(zip(table.name, table.notes, strict=True)) | dict(table.alone)
    rows = unit_rows(table.embedding, table.space.dimensions, table.name)
    boxes: list[Box | None] = [
        None if np.isnan(box[0]) else (float(box[0]), float(box[1]), float(box[2]), float(box[3]))
        for box in table.box
    ]
    qualities = [None if np.isnan(quality) else float(quality) for quality in table.quality]
    new = new_faces(table.name, rows, table.photo, boxes, qualities, table.added.tolist())
    for name, notes in everybody.items():
        check_name(name)
        check_text(notes, "notes")
    writer.insert_people(everybody.items())
    return len(writer.insert_faces(new))


def _write_npz(table: Table, stream: BinaryIO) -> None:
    texts: dict[str, Any] = {key: _packed(getattr(table, key)) for key in _TEXTS}
    np.savez(
        stream,
        space=_packed(asdict(table.space)),
        **texts,
        box=table.box,
        quality=table.quality,
        added=table.added,
        embedding=table.embedding,
        alone=_packed(table.alone),
    )


def _read_npz(stream: BinaryIO) -> Table:
    with np.load(stream, allow_pickle=False) as data:
        return _checked(
            stated_space(_unpacked(data["space"]), "its space"),
            [_unpacked(data[key]) for key in _TEXTS],
            data["box"],
            data["quality"],
            data["added"],
            data["embedding"],
            [(name, notes) for name, notes in _unpacked(data["alone"])],
        )


def _packed(content: Any) -> npt.NDArray[np.uint8]:
    # As bytes of JSON: an array of text would give every text the room of the longest.
    return np.frombuffer(json.dumps(content, ensure_ascii=False).encode(), np.uint8)


def _unpacked(array: npt.NDArray[np.uint8]) -> Any:
    return json.loads(array.tobytes().decode())


def _write_csv(table: Table, stream: BinaryIO) -> None:
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
    writer = csv.writer(text)
    dimensions = table.space.dimensions
    writer.writerow([*_SPACE, *_TEXTS, *_BOX, "quality", "added", *(f"e{i}" for i in range(dimensions))])
    space = [table.space.model, table.space.weights_sha256, int(table.space.flip), dimensions]
    for i, row in enumerate(table.embedding):
        numbers = [
            "" if np.isnan(value) else repr(float(value)) for value in (*table.box[i], table.quality[i])
        ]
        texts = [table.name[i], table.notes[i], table.photo[i]]
        # Nine digits give a float32 back exactly.
        writer.writerow([*space, *texts, *numbers, int(table.added[i]), *(f"{value:.9g}" for value in row)])
    for name, notes in table.alone:
        writer.writerow([*space, name, notes, "", "", "", "", "", "", "", *[""] * dimensions])
    text.flush()
    text.detach()


def _read_csv(stream: BinaryIO) -> Table:
    before = csv.field_size_limit(_FIELD)
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    try:
        rows = list(csv.reader(text))
    finally:
        csv.field_size_limit(before)
        text.detach()
    head = [*_SPACE, *_TEXTS, *_BOX, "quality", "added"]
    if len(rows) < 2 or rows[0][: len(head)] != head:
        raise ValueError(f"expected the columns {', '.join(head)}, e0, ... and a row at least")
    spaces = {tuple(row[: len(_SPACE)]) for row in rows[1:]}
    if len(spaces) != 1:
        raise ValueError("its rows are of several embedding spaces")
    model, sha, flip, dimensions = spaces.pop()
    stated = {"model": model, "weights_sha256": sha, "flip": flip == "1", "dimensions": int(dimensions)}
    space = stated_space(stated, "its space")
    width = len(head) + space.dimensions
    for number, row in enumerate(rows[1:], 2):
        if len(row) != width:
            raise ValueError(f"row {number} has {len(row)} fields, not {width}")
    faces = [row for row in rows[1:] if row[len(head) - 1]]
    at = len(_SPACE)
    numbers = np.array(
        [[float(value) if value else np.nan for value in row[at + 3 : at + 8]] for row in faces], np.float64
    ).reshape(-1, 5)
    return _checked(
        space,
        [[row[at + i] for row in faces] for i in range(3)],
        numbers[:, :4],
        numbers[:, 4],
        np.array([int(row[len(head) - 1]) for row in faces], np.int64),
        np.array([row[len(head) :] for row in faces], np.float32).reshape(-1, space.dimensions),
        [(row[at], row[at + 1]) for row in rows[1:] if not row[len(head) - 1]],
    )


def _write_parquet(table: Table, stream: BinaryIO) -> None:
    arrow = require_pyarrow()
    alone = len(table.alone)
    numbers = {**{key: table.box[:, i] for i, key in enumerate(_BOX)}, "quality": table.quality}
    flat = arrow.array(np.ascontiguousarray(table.embedding).reshape(-1), arrow.float32())
    rows = arrow.FixedSizeListArray.from_arrays(flat, table.space.dimensions)
    columns = {
        "name": arrow.array([*table.name, *(name for name, _ in table.alone)], arrow.string()),
        "notes": arrow.array([*table.notes, *(notes for _, notes in table.alone)], arrow.string()),
        "photo": arrow.array([*table.photo, *[None] * alone], arrow.string()),
        **{
            key: arrow.array(
                [*(None if np.isnan(v) else float(v) for v in values), *[None] * alone], arrow.float64()
            )
            for key, values in numbers.items()
        },
        "added": arrow.array([*table.added.tolist(), *[None] * alone], arrow.int64()),
        "embedding": arrow.chunked_array([rows, arrow.nulls(alone, rows.type)], rows.type),
    }
    metadata = {b"pocketnet_fast": json.dumps(asdict(table.space)).encode()}
    from pyarrow import parquet

    parquet.write_table(arrow.table(columns).replace_schema_metadata(metadata), stream)


def _read_parquet(stream: BinaryIO) -> Table:
    from pyarrow import parquet

    content = parquet.read_table(stream)
    space = stated_space(json.loads((content.schema.metadata or {})[b"pocketnet_fast"]), "its space")
    alone = content.filter(content["added"].is_null()).to_pydict()
    faces = content.filter(content["added"].is_valid())
    columns = faces.drop_columns(["embedding"]).to_pydict()
    rows = faces["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    box = [[np.nan if value is None else value for value in columns[key]] for key in _BOX]
    quality = [np.nan if value is None else value for value in columns["quality"]]
    return _checked(
        space,
        [columns[key] for key in _TEXTS],
        np.array(box, np.float64).T.reshape(-1, 4),
        np.array(quality, np.float64),
        np.array(columns["added"], np.int64),
        np.asarray(rows, np.float32).reshape(-1, space.dimensions),
        list(zip(alone["name"], alone["notes"], strict=True)),
    )


def _checked(
    space: EmbeddingSpace,
    texts: list[list[str]],
    box: npt.NDArray[np.float64],
    quality: npt.NDArray[np.float64],
    added: npt.NDArray[np.int64],
    embedding: npt.NDArray[np.float32],
    alone: list[tuple[str, str]],
) -> Table:
    name, notes, photo = texts
    count = len(name)
    fitting = {
        **{key: _is_text(column, count) for key, column in zip(_TEXTS, texts, strict=True)},
        "alone": all(_is_text(list(pair), 2) for pair in alone),
        "box": box.shape == (count, 4) and box.dtype == np.float64,
        "quality": quality.shape == (count,) and quality.dtype == np.float64,
        "added": added.shape == (count,) and added.dtype == np.int64,
        "embedding": embedding.shape == (count, space.dimensions) and embedding.dtype == np.float32,
    }
    wrong = [key for key, fits in fitting.items() if not fits]
    if wrong:
        raise ValueError(
            f"its {wrong[0]} is of another type, or does not fit its {count} names and {space.dimensions} "
            "dimensions"
        )
    return Table(space, name, notes, photo, box, quality, added, embedding, alone)


def _is_text(column: object, count: int) -> bool:
    return isinstance(column, list) and len(column) == count and all(isinstance(text, str) for text in column)
