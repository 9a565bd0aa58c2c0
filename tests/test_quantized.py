"""Search in bytes: the same best as exact search, and what is changed meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from galleries import rows
from helpers import without_package

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.gallery.gallery import Gallery
from pocketnet_fast.gallery.space import EmbeddingSpace


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    made = Gallery.create(tmp_path / "g", EmbeddingSpace("m", "00", False, 32))
    made.add([f"p{number // 3}" for number in range(3000)], rows(3000, dimensions=32))
    return made


def faces(gallery: Gallery, queries: Any, precision: str) -> list[list[int]]:
    return [[match.face for match in of] for of in gallery.search(queries, precision=precision)]


def test_the_same_best_as_exact_search(gallery: Gallery) -> None:
    pytest.importorskip("numkong")
    for count in (1, 40):
        queries = rows(count, 7, 32)
        for by in ("person", "face"):
            exact = gallery.search(queries, top=10, by=by)
            found = gallery.search(queries, top=10, by=by, precision="int8")
            assert [[m.face for m in of] for of in found] == [[m.face for m in of] for of in exact]
            for one, other in zip(found, exact, strict=True):
                assert [m.score for m in one] == pytest.approx([m.score for m in other], abs=1e-6)
                if by == "person":
                    assert [m.margin for m in one] == pytest.approx([m.margin for m in other], abs=1e-6)


def test_changes_count_at_once(gallery: Gallery) -> None:
    pytest.importorskip("numkong")
    query = rows(3000, dimensions=32)[7:8]
    assert gallery.search(query, precision="int8")[0][0].name == "p2"
    gallery.delete_face(8)
    assert gallery.search(query, precision="int8")[0][0].score < 0.99
    gallery.add(["new"], query)
    assert gallery.search(query, precision="int8")[0][0].name == "new"
    gallery.delete_person("new")
    assert faces(gallery, query, "int8") == faces(gallery, query, "fp32")


def test_a_row_that_stands_out_spoils_no_other(tmp_path: Path) -> None:
    """Each row has a scale of its own, so that one with a single large number costs the others nothing."""
    pytest.importorskip("numkong")
    gallery = Gallery.create(tmp_path / "o", EmbeddingSpace("m", "00", False, 32))
    single = np.zeros((1, 32), np.float32)
    single[0, 3] = 5
    gallery.add(["odd", *(f"p{number}" for number in range(500))], np.concatenate([single, rows(500, 1, 32)]))
    assert gallery.search(single, precision="int8")[0][0].name == "odd"
    assert faces(gallery, rows(9, 2, 32), "int8") == faces(gallery, rows(9, 2, 32), "fp32")


def test_without_numkong(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    without_package(monkeypatch, "numkong")
    with pytest.raises(PocketNetError, match=r"pip install .*\[int8\]"):
        gallery.search(rows(1, dimensions=32), precision="int8")
