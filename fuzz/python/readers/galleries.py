"""Galleries, and tables that they are exported to."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import sqlite3
import struct
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pocketnet_fast.errors import PocketNetError
from readers.checksums import zip_with_checksums
from readers.target import BETWEEN, JSON_WORDS, Target, laid


def _read_gallery(data: bytes, folder: Path) -> None:
    from pocketnet_fast.gallery import Gallery

    path = laid(data, folder, "people.gallery")
    with Gallery(path, timeout=0.2) as gallery:
        gallery.check()
        gallery.contents()
        for person in gallery.people(limit=4):
            with contextlib.suppress(PocketNetError):
                gallery.faces(person.id)
        _, embeddings = gallery.embeddings()
        if len(embeddings):
            gallery.search(np.asarray(embeddings[:1]), top=2)


def _gallery_seeds() -> Iterator[bytes]:
    for mode in ("delete", "wal"):
        yield _gallery(mode)


@functools.cache
def _gallery(mode: str = "delete") -> bytes:
    from pocketnet_fast.gallery import Gallery
    from pocketnet_fast.gallery.space import EmbeddingSpace

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "people.gallery"
        with Gallery.create(path, EmbeddingSpace("small", "00" * 32, True, 4)) as gallery:
            gallery.add(["Ann", "Ann", "Bob"], np.eye(4, dtype=np.float32)[:3])
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.execute(f"PRAGMA journal_mode={mode}")
        return path.read_bytes()


def _read_vectors(data: bytes, folder: Path) -> None:
    from pocketnet_fast.gallery import vectors_cache

    gallery = folder / "people.gallery"
    vectors_cache.cache_path(gallery).write_bytes(_with_sum(data))
    uuid = "0" * 36
    damage = vectors_cache.damage_of_cache(gallery, 4, uuid)
    found = vectors_cache.read_cache(gallery, 4, uuid)
    assert (found is not None) or damage is not None
    if damage is not None:
        raise PocketNetError(damage)


def _with_sum(data: bytes) -> bytes:
    """The bytes with the first page's own checksum, which would keep every changed page out."""
    from pocketnet_fast.gallery.vectors_cache import _FACTS

    if len(data) < _FACTS.size + 4:
        return data
    sum_of_facts = struct.pack("<I", zlib.crc32(data[: _FACTS.size]))
    return data[: _FACTS.size] + sum_of_facts + data[_FACTS.size + 4 :]


def _vector_seeds() -> Iterator[bytes]:
    from pocketnet_fast.gallery.vectors_cache import State, cache_path, write_cache

    with tempfile.TemporaryDirectory() as folder:
        gallery = Path(folder) / "people.gallery"
        for count in (0, 3):
            ids = np.arange(1, count + 1, dtype=np.int64)
            write_cache(gallery, State("0" * 36, 7, 9), ids, ids, [np.eye(4, dtype=np.float32)[:count]], 4)
            yield cache_path(gallery).read_bytes()


def _read_table(data: bytes, folder: Path) -> None:
    from pocketnet_fast.gallery import Gallery
    from pocketnet_fast.gallery.transfer import import_into, import_table

    kind, _, content = data.partition(b"\n")
    suffixes = (".csv", ".npz", ".parquet")
    suffix = suffixes[kind[0] % len(suffixes)] if kind else suffixes[0]
    table = import_table(laid(zip_with_checksums(content), folder, f"people{suffix}"))
    with Gallery.create(
        folder / "new.gallery", table.space, fill=lambda to: import_into(to, table)
    ) as gallery:
        gallery.check()


def _table_seeds() -> Iterator[bytes]:
    from pocketnet_fast.gallery import Gallery
    from pocketnet_fast.gallery.transfer import export_gallery

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "people.gallery"
        path.write_bytes(_gallery())
        with Gallery(path) as gallery:
            for number, suffix in enumerate((".csv", ".npz", ".parquet")):
                target = Path(folder) / f"people{suffix}"
                export_gallery(gallery, target)
                yield bytes([number]) + b"\n" + target.read_bytes()


def _read_old_gallery(data: bytes, folder: Path) -> None:
    from pocketnet_fast.gallery.migration import MANIFEST, read_old_gallery

    parts = [*data.split(BETWEEN), b"", b"", b""]
    manifest = parts[0]
    # Their checksums would keep every changed file out.
    for name, content in zip((b"e", b"i", b"n"), parts[1:], strict=False):
        manifest = manifest.replace(b"%" + name, str(zlib.crc32(content)).encode())
        manifest = manifest.replace(b"#" + name, str(len(content)).encode())
        laid(content, folder, name.decode())
    laid(manifest, folder, MANIFEST)
    read_old_gallery(folder)


def _old_gallery_seeds() -> Iterator[bytes]:
    from dataclasses import asdict

    from pocketnet_fast.gallery import migration
    from pocketnet_fast.gallery.space import EmbeddingSpace

    entries = b"Ann\na.jpg\n"
    files = dict(zip(migration._PARTS, "ein", strict=True))
    content = {
        "format": migration._FORMAT,
        "space": asdict(EmbeddingSpace("small", "00" * 32, True, 4)),
        "rows": 1,
        "files": files,
        "bytes": {part: f"#{name}" for part, name in files.items()},
        "crc32": {part: f"%{name}" for part, name in files.items()},
        "name_by": "file",
    }
    manifest = json.dumps(content).replace('"#', "#").replace('"%', "%")
    for name in "ein":
        manifest = manifest.replace(f'#{name}"', f"#{name}").replace(f'%{name}"', f"%{name}")
    by_part = {
        "embeddings": np.array([1, 0, 0, 0], "<f4").tobytes(),
        "entries": entries,
        "ends": struct.pack("<Q", len(entries)),
    }
    yield BETWEEN.join([manifest.encode(), *(by_part[part] for part in migration._PARTS)])


def _read_photos_table(data: bytes, folder: Path) -> None:
    from pocketnet_fast.cli.gallery.named_photos import named_photos
    from pocketnet_fast.data.images import read_image

    table = laid(data, folder, "people.csv")
    for _, path in named_photos([], table, "file", passed_over=[], on_error=None)[:2]:
        with contextlib.suppress(PocketNetError):
            read_image(path)


def _read_faces_part(data: bytes, folder: Path) -> None:
    from pocketnet_fast.faces.parquet_part import count_rows, read_about

    text, between, file = data.partition(BETWEEN)
    path = laid(_with_about(text) if between and not file else data, folder, "faces.parquet")
    read_about(path)
    count_rows(path)


def _with_about(about: bytes) -> bytes:
    """A table of faces that says this of itself."""
    import pyarrow
    from pyarrow import parquet

    from pocketnet_fast.faces.parquet_part import _METADATA

    stream = io.BytesIO()
    parquet.write_table(pyarrow.table({"norm": [1.0]}).replace_schema_metadata({_METADATA: about}), stream)
    return stream.getvalue()


TARGETS = {
    "photos_table": Target(
        _read_photos_table,
        lambda: [b"file,name\r\na.jpg,Ann\r\n"],
        (b'"', b"\0", b"..", b"\xef\xbb\xbf"),
        512,
    ),
    "faces_part": Target(
        _read_faces_part,
        lambda: [_with_about(b'{"model": "small"}'), b"{}" + BETWEEN],
        (*JSON_WORDS, b"PAR1"),
    ),
    "gallery": Target(
        _read_gallery, _gallery_seeds, (b"SQLite format 3\0", b"CREATE TABLE", b"gallery"), 1 << 17
    ),
    "vectors": Target(_read_vectors, _vector_seeds, (), 1 << 14),
    "people_table": Target(_read_table, _table_seeds, (*JSON_WORDS, b"PK\x03\x04", b"PAR1", b'"'), 8192),
    "old_gallery": Target(_read_old_gallery, _old_gallery_seeds, (*JSON_WORDS, BETWEEN, b'"rows"')),
}
