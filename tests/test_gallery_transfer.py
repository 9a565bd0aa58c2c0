"""Galleries written to files and read again, and galleries of the earlier format."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from galleries import SPACE, old_gallery, rows, small, unit
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.gallery.gallery import Gallery
from pocketnet_fast.gallery.migration import migrate
from pocketnet_fast.gallery.transfer import export_gallery, import_into, import_table, read_table

SUFFIXES = (".npz", ".csv", ".parquet")
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)


def again(gallery: Gallery, file: Path) -> Gallery:
    if file.suffix == ".parquet":
        pytest.importorskip("pyarrow")
    export_gallery(gallery, file)
    table = import_table(file)
    made = file.with_name(f"{file.name}.gallery")
    return Gallery.create(made, table.space, fill=lambda writer: import_into(writer, table))


def everything(gallery: Gallery) -> Any:
    table = read_table(gallery)
    faces = [table.name, table.notes, table.photo, table.added.tolist(), table.embedding.tobytes()]
    return faces, repr(table.box.tolist()), repr(table.quality.tolist()), list(table.alone), table.space


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_was_exported_is_imported(tmp_path: Path, suffix: str) -> None:
    gallery = small(tmp_path / "g")
    gallery.add(["x" * 10_000], rows(1, 4), boxes=[(0.1, -2, 3, 1e9)], qualities=[1 / 3], photos=['a"b,\n;'])
    gallery.change("ann", notes="one\r\ntwo")
    gallery.add(["gone"], rows(1, 5))
    gallery.delete_face(5)
    gallery.change("gone", notes="no face")
    assert everything(again(gallery, tmp_path / f"out{suffix}")) == everything(gallery)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(TEXT.filter(bool), TEXT), min_size=1, max_size=5), st.sampled_from(SUFFIXES))
def test_any_text_comes_back(
    tmp_path_factory: pytest.TempPathFactory, faces: list[tuple[str, str]], suffix: str
) -> None:
    folder = tmp_path_factory.mktemp("t")
    gallery = Gallery.create(folder / "g", SPACE)
    gallery.add([name for name, _ in faces], rows(len(faces)), photos=[photo for _, photo in faces])
    assert everything(again(gallery, folder / f"o{suffix}")) == everything(gallery)


def test_people_of_one_name_are_one(tmp_path: Path) -> None:
    gallery = small(tmp_path / "g")
    gallery.change("ann", notes="kept")
    export_gallery(gallery, tmp_path / "o.npz")
    table = import_table(tmp_path / "o.npz")
    gallery.change("ann", notes="newer")
    with gallery.adding() as writer:
        assert import_into(writer, table) == 3
    assert (gallery.person("ann").faces, gallery.person("ann").notes) == (4, "newer")


def test_parquet_is_read_by_others(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    from pyarrow import parquet

    gallery = small(tmp_path / "g")
    export_gallery(gallery, tmp_path / "o.parquet")
    table = parquet.read_table(tmp_path / "o.parquet")
    assert table["name"].to_pylist() == ["ann", "bob", "ann"]
    np.testing.assert_allclose(table["embedding"].to_pylist(), gallery.embeddings()[1])
    assert json.loads(table.schema.metadata[b"pocketnet_fast"])["dimensions"] == 8


def packed(content: Any) -> Any:
    return np.frombuffer(json.dumps(content).encode(), np.uint8)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": packed(["ann", 5, "bob"])}, "its name is of another type"),
        ({"name": packed("abc")}, "its name is of another type"),
        ({"notes": packed(["", None, ""])}, "its notes is of another type"),
        ({"photo": packed([[], {}, ""])}, "its photo is of another type"),
        ({"alone": packed([["x", 1]])}, "its alone is of another type"),
        ({"box": np.full((3, 4), "x")}, "its box is of another type"),
        ({"quality": np.full(3, 1j)}, "its quality is of another type"),
        ({"added": np.full(3, 2**64 - 1, np.uint64)}, "its added is of another type"),
        ({"space": packed({**asdict(SPACE), "flip": "yes"})}, "its space is no space of embeddings"),
        ({"space": packed({**asdict(SPACE), "model": "\ud800"})}, "its space is no space of embeddings"),
        ({"space": packed({**asdict(SPACE), "dimensions": 0})}, "its space is no space of embeddings"),
        ({"space": packed([])}, "its space is no space of embeddings"),
    ],
)
def test_columns_of_other_types(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    export_gallery(small(tmp_path / "g"), tmp_path / "o.npz")
    with np.load(tmp_path / "o.npz") as held:
        arrays = dict(held)
    np.savez(tmp_path / "o.npz", **(arrays | changed))
    with pytest.raises(PocketNetError, match=rf"o\.npz is no exported gallery: {message}"):
        import_table(tmp_path / "o.npz")


def test_refusals(tmp_path: Path) -> None:
    gallery = small(tmp_path / "g")
    with pytest.raises(PocketNetError, match=r"unknown kind of file; expected \.npz, \.csv, \.parquet"):
        export_gallery(gallery, tmp_path / "o.txt")
    with pytest.raises(PocketNetError, match="cannot be read"):
        import_table(tmp_path / "none.npz")
    for suffix in SUFFIXES:
        if suffix == ".parquet":
            pytest.importorskip("pyarrow")
        bad = tmp_path / f"bad{suffix}"
        bad.write_bytes(b"nothing")
        with pytest.raises(PocketNetError, match="is no exported gallery"):
            import_table(bad)
    np.savez(tmp_path / "other.npz", a=1)
    with pytest.raises(PocketNetError, match="is no exported gallery: it has no"):
        import_table(tmp_path / "other.npz")
    export_gallery(gallery, tmp_path / "o.csv")
    with (tmp_path / "o.csv").open(newline="") as stream:
        table = list(csv.reader(stream))
    for row, column, value, message in [
        (1, 0, "other", "of several embedding spaces"),
        (1, 20, None, "row 2 has 20 fields, not 21"),
        (0, 0, "x", "expected the columns model,"),
        (1, 15, "word", "could not convert"),
    ]:
        changed = [list(fields) for fields in table]
        if value is None:
            del changed[row][column:]
        else:
            changed[row][column] = value
        with (tmp_path / "c.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows(changed)
        with pytest.raises(PocketNetError, match=message):
            import_table(tmp_path / "c.csv")


class TestMigration:
    def test_everything_is_equal(self, tmp_path: Path) -> None:
        embeddings = unit(rows(40)).astype(np.float32)
        names = [f"Zoë {number % 7}" for number in range(40)]
        old = old_gallery(tmp_path / "old", names, [f"{number}.jpg" for number in range(40)], embeddings)
        before = {path.name: path.read_bytes() for path in old.iterdir()}
        gallery = migrate(old, tmp_path / "new.gallery")
        assert (len(gallery), len(gallery.people()), gallery.name_by) == (40, 7, "folder")
        np.testing.assert_array_equal(gallery.embeddings()[1], embeddings)
        assert (gallery.space.model, gallery.space.weights_sha256) == ("m", "cd" * 32)
        assert {path.name: path.read_bytes() for path in old.iterdir()} == before
        gallery.check()
        with pytest.raises(PocketNetError, match="already holds a gallery"):
            migrate(old, tmp_path / "new.gallery")

    @pytest.mark.parametrize("part", ["embeddings-1.f32", "entries-1.txt", "ends-1.u64"])
    def test_damage_is_named(self, tmp_path: Path, part: str) -> None:
        old = old_gallery(tmp_path / "old", ["a", "b"], ["", ""], unit(rows(2)).astype(np.float32))
        content = bytearray((old / part).read_bytes())
        content[3] ^= 1
        (old / part).write_bytes(content)
        with pytest.raises(PocketNetError, match=f"{part}: damaged"):
            migrate(old, tmp_path / "new")
        (old / part).unlink()
        with pytest.raises(PocketNetError, match=f"{part}: missing"):
            migrate(old, tmp_path / "new")
        assert not (tmp_path / "new").exists()

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            ({"format": "x"}, "no gallery of the format"),
            ({"rows": 3}, "do not fit the 3 rows"),
            ({"files": dict.fromkeys(("embeddings", "entries", "ends"), "../x")}, "outside its folder"),
            ({"space": {}}, "damaged: its space is no space of embeddings"),
            ({"crc32": {}}, "damaged: KeyError"),
        ],
    )
    def test_a_wrong_manifest(self, tmp_path: Path, more: dict[str, Any], message: str) -> None:
        old = old_gallery(tmp_path / "old", ["a", "b"], ["", ""], unit(rows(2)).astype(np.float32), **more)
        with pytest.raises(PocketNetError, match=message):
            migrate(old, tmp_path / "new")

    def test_rows_that_are_none(self, tmp_path: Path) -> None:
        old = old_gallery(tmp_path / "old", ["a", "b"], ["", ""], 2 * rows(2))
        with pytest.raises(PocketNetError, match="row 0 has no length of 1"):
            migrate(old, tmp_path / "new")
        broken = old_gallery(tmp_path / "broken", ["a\nb", "b"], ["", ""], unit(rows(2)).astype(np.float32))
        with pytest.raises(PocketNetError, match="the entry of row 0 is no name and photo"):
            migrate(broken, tmp_path / "new")
        with pytest.raises(PocketNetError, match="is no gallery of earlier versions"):
            migrate(tmp_path, tmp_path / "new")
