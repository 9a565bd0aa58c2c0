"""Galleries for the tests: of eight numbers, and of the earlier format."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketnet_fast.gallery.gallery import Gallery
from pocketnet_fast.gallery.space import EmbeddingSpace

SPACE = EmbeddingSpace("pocketnet_s128", "ab" * 32, True, 8)


def rows(count: int, seed: int = 0, dimensions: int = 8) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, dimensions)).astype(np.float32)


def unit(embeddings: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    wide = np.asarray(embeddings, np.float64)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


def small(path: Path) -> Gallery:
    """Ann with two faces, Bob with one."""
    made = Gallery.create(path, SPACE)
    made.add(["ann", "bob", "ann"], rows(3), photos=["a.jpg", "b.jpg", ""])
    return made


def files_of(path: Path) -> dict[str, bytes]:
    """Every file of a gallery."""
    return {file.name: file.read_bytes() for file in path.parent.iterdir() if file.name.startswith(path.name)}


def old_gallery(
    folder: Path,
    names: Sequence[str],
    photos: Sequence[str],
    embeddings: npt.NDArray[np.float32],
    **more: Any,
) -> Path:
    """A gallery as earlier versions wrote it, with what a killed writer left behind its end."""
    folder.mkdir()
    entries = [f"{name}\n{photo}\n".encode() for name, photo in zip(names, photos, strict=True)]
    content = {
        "embeddings": np.asarray(embeddings, "<f4").tobytes(),
        "entries": b"".join(entries),
        "ends": np.cumsum([len(entry) for entry in entries], dtype="<u8").tobytes(),
    }
    files = {"embeddings": "embeddings-1.f32", "entries": "entries-1.txt", "ends": "ends-1.u64"}
    for part, data in content.items():
        (folder / files[part]).write_bytes(data + b"left behind")
    manifest = {
        "format": "pocketnet gallery 1",
        "space": {
            "model": "m",
            "weights_sha256": "cd" * 32,
            "flip": False,
            "dimensions": embeddings.shape[1],
        },
        "rows": len(names),
        "bytes": {part: len(data) for part, data in content.items()},
        "crc32": {part: zlib.crc32(data) for part, data in content.items()},
        "files": files,
        "index": None,
        "name_by": "folder",
    }
    (folder / "manifest.json").write_text(json.dumps(manifest | more))
    return folder


def assert_holds_four_faces(gallery: Gallery) -> None:
    """What was added: ``small``'s faces and one of a third person."""
    assert gallery.faces("bob")[0].box is None
    _, held = gallery.embeddings()
    np.testing.assert_allclose(held, unit(np.concatenate([rows(3), rows(1, 1)])), atol=1e-7)
    np.testing.assert_array_equal(gallery.embeddings("ann")[1], held[[0, 2]])
    checked, stats = gallery.check(), gallery.stats()
    assert (checked.people, checked.faces, checked.cache) == (3, 4, "absent")
    assert (stats.people, stats.faces, stats.most_faces, stats.lowest_quality) == (3, 4, 2, 0.25)
