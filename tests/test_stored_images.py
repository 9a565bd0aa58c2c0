"""Images in record files and tables, and parts of many images."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from faces import crop, write_records
from hypothesis import given
from hypothesis import strategies as st

from pocketnet_fast.data.images import encode_image
from pocketnet_fast.data.stored_images import ImageInputs, RecordImage, StoredImage
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.faces.analyzer import read_photo


def write_table(path: Path, columns: dict[str, list[Any]], rows: int = 3) -> Path:
    """A parquet table of row groups with so many rows."""
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(arrow.table(columns), path, row_group_size=rows)
    return path


def images(count: int, first: int = 0) -> list[bytes]:
    return [encode_image(crop(first + number), ".png") for number in range(count)]


def place(image: str | StoredImage) -> str:
    return image.place if isinstance(image, StoredImage) else image


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(1, 12))
def test_parts_are_everything_once(counts: list[int], parts: int) -> None:
    inputs = ImageInputs([Path(f"{i}-{j}.jpg") for i, count in enumerate(counts) for j in range(count)])
    whole = [place(image) for image in inputs.part(1, 1)]
    assert len(inputs) == len(whole) == sum(counts)
    for number in range(1, parts + 1):
        assert inputs.part(number, parts) == whole[number - 1 :: parts]


def test_records_and_tables_beside_files(tmp_path: Path) -> None:
    records = write_records(tmp_path / "a.rec", [[0.0]] * 5)
    one = write_table(tmp_path / "one.parquet", {"image": images(7, 10), "file": [f"p{i}" for i in range(7)]})
    two = write_table(tmp_path / "two.parquet", {"bytes": images(4, 20)})
    inputs = ImageInputs([tmp_path / "x.png", one, records, two, tmp_path / "y.png"])
    whole = [place(image) for image in inputs.part(1, 1)]
    assert whole[:7] == [f"{tmp_path}/x.png", *(f"{records}#{key}" for key in range(5)), f"{tmp_path}/y.png"]
    assert whole[7:] == [f"{one}#{row}" for row in range(7)] + [f"{two}#{row}" for row in range(4)]
    parts = [[place(image) for image in inputs.part(number, 3)] for number in (1, 2, 3)]
    assert sorted(name for part in parts for name in part) == sorted(whole)
    assert parts[1] == [whole[1], whole[4], *whole[7 + 3 : 7 + 7]]
    for number, image in [(1, 0), (5, 4), (7, 10), (13, 16), (14, 20), (17, 23)]:
        (found,) = pickle.loads(pickle.dumps(inputs.part(1, 1)[number : number + 1]))
        assert (read_photo(found) == crop(image)).all()
    assert [image.name for image in inputs.part(1, 1)[7:15:7]] == ["p0", f"{two}#0"]


def test_tables_of_structs(tmp_path: Path) -> None:
    cells = [{"bytes": images(1)[0], "path": "a.png"}, {"bytes": None, "path": None}]
    table = write_table(tmp_path / "t.parquet", {"image": cells})
    first, second = ImageInputs([table]).part(1, 1)
    assert (first.name, second.name) == ("a.png", f"{table}#1")
    assert (read_photo(first) == crop(0)).all()
    with pytest.raises(PocketNetError, match=r"t\.parquet#1 has no image"):
        read_photo(second)


def test_refusals(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.parquet", {"picture": images(1)})
    with pytest.raises(
        PocketNetError, match="has the columns picture; expected encoded images in a column image"
    ):
        ImageInputs([table])
    (tmp_path / "bad.parquet").write_bytes(b"no table")
    for name, message in [
        ("bad.parquet", "cannot be read as parquet"),
        ("none.parquet", "no such file"),
        ("none.rec", "no such record file"),
    ]:
        with pytest.raises(PocketNetError, match=message):
            ImageInputs([tmp_path / name])
    records = write_records(tmp_path / "a.rec", [[0.0]])
    records.write_bytes(records.read_bytes()[:40])
    with pytest.raises(PocketNetError, match=r"a\.rec"):
        read_photo(RecordImage(str(records), 0))


def test_a_damaged_row_group_is_named(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.parquet", {"image": images(6), "file": list("abcdef")})
    content = bytearray(table.read_bytes())
    content[len(content) // 2 : -3000] = bytes(len(content) - 3000 - len(content) // 2)
    table.write_bytes(content)
    *_, last = ImageInputs([table]).part(1, 1)
    assert last.name == f"{table}#5"
    with pytest.raises(PocketNetError, match="row group 1 cannot be read"):
        read_photo(last)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": [1, 2]}, "the column image is int64; expected encoded images"),
        ({"image": ["a.jpg"]}, "the column image is string; expected encoded images"),
        ({"bytes": [[b"x"]]}, r"the column bytes is list<.*>; expected encoded images"),
        ({"image": [{"bytes": 5, "path": "x"}]}, r"the column image is struct<.*>; expected encoded images"),
        ({"image": [{"bytes": b"x", "path": 7}]}, r"the column image is struct<.*>; expected encoded images"),
        ({"image": [{"path": "x"}]}, r"the column image is struct<.*>; expected encoded images"),
        ({"image": [b"x"], "file": [7]}, "the column file is int64; expected text"),
        ({"image": [b"x"], "path": [b"x"]}, "the column path is binary; expected text"),
    ],
)
def test_columns_of_other_types(tmp_path: Path, columns: dict[str, list[Any]], message: str) -> None:
    table = write_table(tmp_path / "a.parquet", columns)
    with pytest.raises(PocketNetError, match=rf"a\.parquet: {message}"):
        ImageInputs([table])


def test_every_type_of_bytes(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    values = [b"ab", b"cd"]
    kinds = [arrow.binary(), arrow.large_binary(), arrow.binary(2)]
    columns = [arrow.array(values, kind) for kind in kinds] + [arrow.array(values).dictionary_encode()]
    for number, column in enumerate(columns):
        table = write_table(
            tmp_path / f"{number}.parquet", {"image": column, "file": arrow.array(["a", "b"])}
        )
        found = ImageInputs([table]).part(1, 1)
        assert [image.name for image in found] == ["a", "b"]
        assert [image.read() for image in found] == values  # type: ignore[union-attr]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    """pyarrow writes and reads them unchecked."""
    arrow = pytest.importorskip("pyarrow")
    parts = [None, arrow.py_buffer(b"\0\0\0\0\2\0\0\0"), arrow.py_buffer(b"\xff\xfe")]
    names = arrow.Array.from_buffers(arrow.string(), 1, parts)
    table = write_table(tmp_path / "a.parquet", {"image": [b"x"], "file": names})
    (image,) = ImageInputs([table]).part(1, 1)
    assert image.name == f"{table}#0"
    with pytest.raises(PocketNetError, match=r"a\.parquet: row group 0 cannot be read: .*UTF8"):
        image.read()
