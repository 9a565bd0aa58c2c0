"""Writing datasets: the layout of the distributed files, and nothing half written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from faces import crop

from pocketnet_fast.data.folder import FolderDataset
from pocketnet_fast.data.images import encode_image
from pocketnet_fast.data.recordio import RecordFile, image_keys, unpack_image
from pocketnet_fast.data.records import RecordDataset
from pocketnet_fast.data.writing import write_folder, write_records
from pocketnet_fast.errors import PocketNetError

LABELS = np.array([1, 0, 2, 1, 0], np.int64)


def read(index: int) -> bytes:
    return encode_image(crop(index), ".png")


def fail_at_three(index: int) -> bytes:
    if index == 3:
        raise PocketNetError("image 3 is lost")
    return read(index)


def test_records(tmp_path: Path) -> None:
    calls = []
    write_records(tmp_path / "train.rec", LABELS, read, lambda: calls.append(None))
    assert len(calls) == 5
    assert (tmp_path / "property").read_text() == "3,112,112\n"
    dataset = RecordDataset(tmp_path)
    assert dataset.labels.tolist() == [0, 0, 1, 1, 2]
    for index, source in enumerate((1, 4, 0, 3, 2)):
        np.testing.assert_array_equal(dataset.image(index), crop(source))


def test_record_layout(tmp_path: Path) -> None:
    write_records(tmp_path / "a.rec", LABELS, read)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.idx", "a.rec"]
    file = RecordFile(tmp_path / "a.rec")
    assert file.keys == tuple(range(9))
    assert image_keys(file) == (1, 2, 3, 4, 5)
    # Record 0: one past the images, one past the identities; then of each identity its keys.
    heads = [unpack_image(file.read(key)) for key in (0, 6, 7, 8)]
    assert [head.labels.tolist() for head in heads] == [[6, 9], [1, 3], [3, 5], [5, 6]]
    assert all(head.image == b"" for head in heads)
    assert [unpack_image(file.read(key)).id for key in range(1, 6)] == [1, 2, 3, 4, 5]
    (tmp_path / "a.idx").unlink()
    assert RecordDataset(tmp_path / "a.rec").labels.tolist() == [0, 0, 1, 1, 2]


def test_folder(tmp_path: Path) -> None:
    calls = []
    write_folder(tmp_path / "faces", LABELS, ["a", "b", "c"], read, lambda: calls.append(None))
    assert len(calls) == 5
    dataset = FolderDataset(tmp_path / "faces")
    assert dataset.identities == ["a", "b", "c"]
    assert [file.name for file in dataset.files] == ["1.png", "4.png", "0.png", "3.png", "2.png"]
    np.testing.assert_array_equal(dataset.image(1), crop(4))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
def test_files_are_named_by_their_content(tmp_path: Path, suffix: str) -> None:
    write_folder(tmp_path / "faces", LABELS[:1] * 0, ["a"], lambda index: encode_image(crop(index), suffix))
    assert (tmp_path / "faces" / "a" / f"0{suffix}").is_file()


def test_nothing_appears_when_writing_fails(tmp_path: Path) -> None:
    with pytest.raises(PocketNetError, match="image 3 is lost"):
        write_records(tmp_path / "train.rec", LABELS, fail_at_three)
    with pytest.raises(PocketNetError, match="image 3 is lost"):
        write_folder(tmp_path / "faces", LABELS, ["a", "b", "c"], fail_at_three)
    assert list(tmp_path.iterdir()) == []


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(PocketNetError, match=r"a\.bin: the name of a record file ends with \.rec"):
        write_records(tmp_path / "a.bin", LABELS, read)
    with pytest.raises(PocketNetError, match=r"cannot write .*nowhere/a\.(rec|idx): No such file"):
        write_records(tmp_path / "nowhere" / "a.rec", LABELS, read)
    with pytest.raises(PocketNetError, match=r"cannot write .*nowhere/faces: No such file"):
        write_folder(tmp_path / "nowhere" / "faces", LABELS, ["a", "b", "c"], read)
    with pytest.raises(PocketNetError, match="exists already; expected a folder to make"):
        write_folder(tmp_path, LABELS, ["a", "b", "c"], read)
    with pytest.raises(PocketNetError, match="image 0 is neither JPEG, PNG, WebP nor BMP"):
        write_folder(tmp_path / "faces", LABELS, ["a", "b", "c"], lambda _: b"GIF89a")
    assert list(tmp_path.iterdir()) == []
