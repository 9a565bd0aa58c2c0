"""The faiss index of a gallery: what it finds, what it says about itself, and when it is refused."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.gallery.index import IndexedSearch, build_index
from pocketnet_fast.gallery.manifest import EmbeddingSpace
from pocketnet_fast.gallery.store import Gallery

pytest.importorskip("faiss")


def people(count: int, photos: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Embeddings in clusters, as those of people are."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((count, 1, 16))
    return (centres + 0.3 * rng.standard_normal((count, photos, 16))).reshape(-1, 16).astype(np.float32)


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    made = Gallery.create(tmp_path / "g", EmbeddingSpace("m", "00", False, 16))
    made.add([str(row // 20) for row in range(4000)], people(200, 20))
    return made


def test_all_lists_are_exact(gallery: Gallery) -> None:
    about = build_index(gallery, lists=10, probes=10)
    assert (about.rows, about.lists, about.probes, about.recall) == (4000, 10, 10, 1.0)
    assert Gallery(gallery.path).index == about
    queries = people(5, 1, seed=3)
    indexed = IndexedSearch(gallery).search(queries, top=4, threshold=0.2)
    for found, exact in zip(indexed, gallery.search(queries, top=4, threshold=0.2), strict=True):
        assert [match.row for match in found] == [match.row for match in exact]
        assert [match.score for match in found] == pytest.approx([match.score for match in exact], abs=1e-5)


def test_recall_is_measured(gallery: Gallery) -> None:
    some = build_index(gallery, lists=60, probes=2)
    most = build_index(gallery, lists=60, probes=30)
    assert 0.2 < some.recall < most.recall <= 1
    # The same measure by hand, on rows of the gallery itself, which are easier queries.
    queries = gallery.embeddings[::37]
    exact = gallery.search(queries, top=10)
    found = IndexedSearch(gallery, probes=2).search(queries, top=10)
    by_hand = np.mean(
        [
            len({match.row for match in a} & {match.row for match in b}) / 10
            for a, b in zip(exact, found, strict=True)
        ]
    )
    assert some.recall - 0.05 < by_hand < 1
    # The older index is gone.
    assert len(list(gallery.path.glob("index-*"))) == 1


def test_deterministic(gallery: Gallery) -> None:
    first = build_index(gallery, lists=20, probes=3)
    data = (gallery.path / first.file).read_bytes()
    second = build_index(gallery, lists=20, probes=3)
    assert (first.recall, first.crc32) == (second.recall, second.crc32)
    assert (gallery.path / second.file).read_bytes() == data


def test_more_matches_than_the_lists_hold(gallery: Gallery) -> None:
    build_index(gallery, lists=60, probes=1)
    (found,) = IndexedSearch(gallery).search(people(1, 1), top=4000)
    assert 0 < len(found) < 4000


def test_refusals(gallery: Gallery) -> None:
    with pytest.raises(PocketNetError, match="has no index"):
        IndexedSearch(gallery)
    for lists, probes in ((0, 1), (63, 1), (10, 0)):
        with pytest.raises(PocketNetError, match="4000 rows allow 1 to 62 lists"):
            build_index(gallery, lists=lists, probes=probes)
    about = build_index(gallery, lists=10)
    with pytest.raises(PocketNetError, match="must be positive"):
        IndexedSearch(gallery).search(people(1, 1), top=0)
    path = gallery.path / about.file
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(PocketNetError, match=f"{path}: damaged"):
        IndexedSearch(gallery)
    path.unlink()
    with pytest.raises(PocketNetError, match=f"{path}: missing"):
        IndexedSearch(gallery)
    gallery.add(["new"], people(1, 1))
    with pytest.raises(PocketNetError, match="the index holds 4000 of 4001 rows"):
        IndexedSearch(gallery)
    empty = Gallery.create(gallery.path.with_name("empty"), gallery.space)
    with pytest.raises(PocketNetError, match="is empty"):
        build_index(empty)


def test_without_faiss(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "faiss":
            raise ImportError
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(PocketNetError, match=r"pip install .*\[faiss\]"):
        build_index(gallery)
