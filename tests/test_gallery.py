"""The gallery on disk: what is added is found, a killed writer changes nothing, and damage is named."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.gallery import store
from pocketnet_fast.gallery.gallery import Gallery
from pocketnet_fast.gallery.space import MANIFEST, EmbeddingSpace

SPACE = EmbeddingSpace("pocketnet_s128", "ab" * 32, True, 8)


def rows(count: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, 8)).astype(np.float32)


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    made = Gallery.create(tmp_path / "g", SPACE)
    made.add(["ann", "bob", "ann"], rows(3), ["a.jpg", "b.jpg", ""])
    return made


def data_file(gallery: Gallery, part: str) -> Path:
    (path,) = gallery.path.glob(f"{part}-*")
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_added_is_found(gallery: Gallery) -> None:
    gallery.add(["Zoë Ω"], rows(1, 1) * 1e6)
    again = Gallery(gallery.path)
    assert len(again) == 4
    assert again.space == SPACE
    assert [again.name(row) for row in range(4)] == [
        ("ann", "a.jpg"),
        ("bob", "b.jpg"),
        ("ann", ""),
        ("Zoë Ω", ""),
    ]
    everything = np.concatenate([rows(3), rows(1, 1)]).astype(float)
    unit = everything / np.sqrt((everything**2).sum(1, keepdims=True))
    np.testing.assert_allclose(again.embeddings, unit, atol=1e-7)
    again.verify()

    queries = rows(5, 2)
    for query, matches in zip(queries, again.search(queries, top=3), strict=True):
        cosines = unit @ query / np.linalg.norm(query)
        best = np.argsort(-cosines)[:3]
        assert [match.row for match in matches] == best.tolist()
        assert [match.score for match in matches] == pytest.approx(cosines[best], abs=1e-6)
        assert [(match.name, match.source) for match in matches] == [again.name(row) for row in best]


def test_bad_queries(gallery: Gallery) -> None:
    with pytest.raises(PocketNetError, match="the embedding of row 1 is not finite, or zero"):
        gallery.search([[1.0] * 8, [0.0] * 8])
    with pytest.raises(PocketNetError, match="expected embeddings N x 8"):
        gallery.search([1.0] * 8)
    with pytest.raises(PocketNetError, match="must be positive"):
        gallery.search(rows(1), top=0)


def test_a_cosine_is_at_most_one(gallery: Gallery) -> None:
    gallery.add([str(row) for row in range(200)], rows(200, 4))
    found = gallery.search(gallery.embeddings, top=1)
    assert [matches[0].row for matches in found] == list(range(203))
    assert max(matches[0].score for matches in found) <= 1


def test_threshold(gallery: Gallery) -> None:
    (matches,) = gallery.search(rows(3)[1:2], threshold=0.999)
    assert [match.name for match in matches] == ["bob"]
    assert gallery.search(-rows(3)[1:2], threshold=0.999) == [[]]
    assert len(gallery.search(rows(1), top=50)[0]) == 3


def test_ties_come_in_the_order_of_the_rows(gallery: Gallery) -> None:
    gallery.add(["twin"] * 4, np.tile(rows(3)[1], (4, 1)))
    (matches,) = gallery.search(rows(3)[1:2], top=3)
    assert [match.row for match in matches] == [1, 3, 4]


def test_an_empty_gallery_finds_nobody(tmp_path: Path) -> None:
    empty = Gallery.create(tmp_path / "g", SPACE)
    assert len(empty) == 0
    assert empty.search(rows(2)) == [[], []]
    empty.verify()


def test_the_embeddings_are_mapped_and_the_file_is_safe(gallery: Gallery) -> None:
    before = data_file(gallery, "embeddings").read_bytes()
    assert isinstance(gallery.embeddings, np.memmap)
    gallery.embeddings[:] = 0
    assert data_file(gallery, "embeddings").read_bytes() == before


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (replace(SPACE, model="mobilefacenet"), "of pocketnet_s128, not of mobilefacenet"),
        (replace(SPACE, dimensions=9), "of 8 dimensions, not 9"),
        (replace(SPACE, weights_sha256="cd" * 32), "with the weights abababababab, not cdcdcdcdcdcd"),
        (replace(SPACE, flip=False), "made with the mirror image .*, not without"),
    ],
)
def test_other_embeddings_are_refused(other: EmbeddingSpace, message: str) -> None:
    SPACE.require_same(SPACE, "g")
    with pytest.raises(PocketNetError, match=f"g: its embeddings are .*{message}"):
        SPACE.require_same(other, "g")


class TestAtomicity:
    def test_an_error_in_the_middle_adds_nothing(self, gallery: Gallery) -> None:
        before = (gallery.path / MANIFEST).read_bytes()
        with pytest.raises(PocketNetError), gallery.adding() as append:
            append(["new"], rows(1))
            append(["bad"], np.full((1, 8), np.nan))
        assert (gallery.path / MANIFEST).read_bytes() == before
        again = Gallery(gallery.path)
        assert len(again) == 3
        again.verify()
        again.add(["next"], rows(1, 5))
        Gallery(gallery.path).verify()
        assert again.name(3) == ("next", "")

    @pytest.mark.parametrize("moment", ["append", "before the manifest"])
    def test_a_killed_writer_adds_nothing(self, gallery: Gallery, moment: str) -> None:
        code = (
            "import os, signal, numpy as np\n"
            "from pocketnet_fast.gallery import store\n"
            "def die(*_): os.kill(os.getpid(), signal.SIGKILL)\n"
            f"gallery = store.Gallery({str(gallery.path)!r})\n"
            f"if {moment!r} == 'append':\n"
            "    with gallery.adding() as append:\n"
            "        append(['x'] * 50_000, np.ones((50_000, 8)))\n"
            "        die()\n"
            "store.write_manifest = die\n"
            "gallery.add(['x'] * 50_000, np.ones((50_000, 8)))\n"
        )
        done = subprocess.run([sys.executable, "-c", code], check=False)
        assert done.returncode == -signal.SIGKILL
        assert data_file(gallery, "embeddings").stat().st_size > 3 * 8 * 4
        again = Gallery(gallery.path)
        assert len(again) == 3
        again.verify()
        again.add(["next"], rows(1, 5))
        Gallery(gallery.path).verify()
        assert data_file(gallery, "embeddings").stat().st_size == 4 * 8 * 4

    def test_a_failed_build_leaves_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(RuntimeError), Gallery.building(tmp_path / "a" / "g", SPACE) as append:
            append(["x"], rows(1))
            raise RuntimeError
        assert not (tmp_path / "a" / "g").exists()

    def test_overwriting_replaces_at_the_end(self, gallery: Gallery) -> None:
        with pytest.raises(PocketNetError, match="already holds a gallery"):
            Gallery.create(gallery.path, SPACE)
        before = content(gallery.path)
        with pytest.raises(RuntimeError), Gallery.building(gallery.path, SPACE, overwrite=True) as append:
            append(["x"], rows(1))
            assert len(Gallery(gallery.path)) == 3
            raise RuntimeError
        assert content(gallery.path) == before
        with Gallery.building(gallery.path, replace(SPACE, flip=False), overwrite=True) as append:
            append(["x"], rows(1))
        again = Gallery(gallery.path)
        assert (len(again), again.space.flip) == (1, False)
        assert len(list(gallery.path.iterdir())) == 5
        # Whoever has the old one open still reads it.
        assert gallery.embeddings.shape == (3, 8)

    def test_a_reader_stays_where_it_is(self, gallery: Gallery) -> None:
        reader = Gallery(gallery.path)
        gallery.add(["dan"], rows(1, 3))
        assert (len(reader), len(gallery)) == (3, 4)
        assert len(reader.search(rows(1), top=9)[0]) == 3

    def test_two_writers(self, gallery: Gallery) -> None:
        with gallery.adding() as append:
            append(["eve"], rows(1))
            with pytest.raises(PocketNetError, match="another process is writing"):
                Gallery(gallery.path).add(["fay"], rows(1))
        other = Gallery(gallery.path)
        gallery.add(["fay"], rows(1, 7))
        # The one that was opened earlier goes on from what is there now.
        other.add(["gus"], rows(1, 8))
        assert [other.name(row)[0] for row in range(3, 6)] == ["eve", "fay", "gus"]
        other.verify()


class TestDamage:
    @pytest.mark.parametrize("part", ["embeddings", "entries", "ends"])
    def test_truncated(self, gallery: Gallery, part: str) -> None:
        path = data_file(gallery, part)
        os.truncate(path, path.stat().st_size - 1)
        with pytest.raises(PocketNetError, match=f"{path}: truncated: .* bytes, of which"):
            Gallery(gallery.path)
        path.unlink()
        with pytest.raises(PocketNetError, match=f"{path}: missing"):
            Gallery(gallery.path)

    @pytest.mark.parametrize("part", ["embeddings", "entries", "ends"])
    def test_one_bit(self, gallery: Gallery, part: str) -> None:
        path = data_file(gallery, part)
        changed = bytearray(path.read_bytes())
        changed[5] ^= 1
        path.write_bytes(changed)
        with pytest.raises(PocketNetError, match=f"{path}: damaged"):
            Gallery(gallery.path).verify()

    def test_a_row_is_named(self, gallery: Gallery) -> None:
        path = data_file(gallery, "embeddings")
        changed = bytearray(path.read_bytes())
        changed[2 * 32 : 2 * 32 + 4] = np.float32(np.nan).tobytes()
        path.write_bytes(changed)
        with pytest.raises(PocketNetError, match=r"damaged: row 2 \(byte 64\)"):
            Gallery(gallery.path).verify()
        with pytest.raises(PocketNetError, match="row 2 is not finite"):
            Gallery(gallery.path).search(rows(1))

    def test_an_entry_is_named(self, gallery: Gallery) -> None:
        path = data_file(gallery, "entries")
        path.write_bytes(path.read_bytes().replace(b"bob\n", b"bobb"))
        with pytest.raises(PocketNetError, match=f"{path}: damaged at byte 10"):
            Gallery(gallery.path).name(1)

    @pytest.mark.parametrize("end", [0, 1000, 2**64 - 1])
    def test_an_impossible_end_is_named(self, gallery: Gallery, end: int) -> None:
        path = data_file(gallery, "ends")
        path.write_bytes(np.array([end], "<u8").tobytes() + path.read_bytes()[8:])
        with pytest.raises(PocketNetError, match=f"{path}: damaged: the entry of row 0"):
            Gallery(gallery.path).name(0)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"format": "pocketnet gallery 2"}, "no manifest of a gallery of this version"),
            ({"rows": 4}, "it states 96 bytes of embeddings, not 128"),
            ({"space": {"model": "x"}}, "damaged: TypeError"),
            ({"files": {}}, "damaged: KeyError"),
            (
                {"files": {"embeddings": "../a", "entries": "b", "ends": "c"}},
                "names files outside its folder",
            ),
        ],
    )
    def test_manifest(self, gallery: Gallery, changes: dict[str, object], message: str) -> None:
        path = gallery.path / MANIFEST
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        with pytest.raises(PocketNetError, match=f"{path}.*{message}"):
            Gallery(gallery.path)
        path.write_text("{")
        with pytest.raises(PocketNetError, match=f"{path}: damaged"):
            Gallery(gallery.path)

    def test_no_gallery(self, gallery: Gallery, tmp_path: Path) -> None:
        with pytest.raises(PocketNetError, match="no such gallery"):
            Gallery(tmp_path / "none")
        (gallery.path / MANIFEST).unlink()
        with pytest.raises(PocketNetError, match="unfinished or no gallery"):
            Gallery(gallery.path)
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "photo.jpg").touch()
        with pytest.raises(PocketNetError, match=r"holds other files \(photo.jpg\)"):
            Gallery.create(tmp_path / "other", SPACE, overwrite=True)
        with pytest.raises(PocketNetError, match="cannot write"):
            Gallery.create(tmp_path / "other" / "photo.jpg" / "g", SPACE)


@pytest.mark.parametrize(
    ("names", "embeddings", "message"),
    [
        (["a"], np.ones((2, 8)), "1 names and 1 sources do not belong to 2 embeddings"),
        (["a"], np.ones((1, 9)), r"expected embeddings N x 8, got \(1, 9\)"),
        (["a"], np.ones(8), r"expected embeddings N x 8, got \(8,\)"),
        (["a", "b"], [[1.0] * 8, [0.0] * 8], "the embedding of b is not finite, or zero"),
        (["a"], [[np.inf] * 8], "the embedding of a is not finite"),
        (["a\nb"], np.ones((1, 8)), "is no name"),
        ([""], np.ones((1, 8)), "is no name"),
    ],
)
def test_refused_rows(gallery: Gallery, names: list[str], embeddings: object, message: str) -> None:
    with pytest.raises(PocketNetError, match=message):
        gallery.add(names, embeddings)  # type: ignore[arg-type]
    assert len(Gallery(gallery.path)) == 3
    with pytest.raises(PocketNetError, match="line break"):
        gallery.add(["a"], np.ones((1, 8)), ["x\ny"])


@pytest.mark.slow
def test_processes_share_a_gallery(gallery: Gallery) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = pool.map(_search, [str(gallery.path)] * 2)
    assert found == ["bob", "bob"]


def _search(path: str) -> str:
    return store.Gallery(path).search(rows(3)[1:2])[0][0].name
