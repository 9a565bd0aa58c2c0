"""Record files as datasets: labels from headers alone, identities, and damage that names its place."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from faces import crop, write_records
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketnet_fast.data import records as module
from pocketnet_fast.data.images import encode_image
from pocketnet_fast.data.recordio import (
    CorruptRecordError,
    ImageRecord,
    RecordFile,
    RecordWriter,
    pack_image,
    read_labels,
    unpack_image,
)
from pocketnet_fast.data.records import RecordDataset, damaged_records
from pocketnet_fast.errors import PocketNetError


def test_images_and_labels(tmp_path: Path) -> None:
    dataset = RecordDataset(write_records(tmp_path / "a.rec", [[0], [2], [1], [0]]))
    assert dataset.labels.tolist() == [0, 2, 1, 0]
    assert dataset.identities.tolist() == [0, 1, 2]
    for index in range(4):
        np.testing.assert_array_equal(dataset.image(index), crop(index))
    np.testing.assert_array_equal(dataset.image(-1), crop(3))
    with pytest.raises(IndexError):
        dataset.image(4)


def test_gaps_between_identities_close(tmp_path: Path) -> None:
    dataset = RecordDataset(write_records(tmp_path / "a.rec", [[70], [5], [70], [900]]))
    assert dataset.labels.tolist() == [1, 0, 1, 2]
    assert dataset.identities.tolist() == [5, 70, 900]
    assert dataset.classes == 3


def test_the_first_of_several_labels_is_the_identity(tmp_path: Path) -> None:
    dataset = RecordDataset(write_records(tmp_path / "a.rec", [[1, 0.5], [0, -7, 3], [1]]))
    assert dataset.labels.tolist() == [1, 0, 1]
    np.testing.assert_array_equal(dataset.image(1), crop(1))


def test_record_zero_is_no_image(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "a.rec") as writer:
        writer.write(0, pack_image(ImageRecord(np.array([3, 4], np.float32), b"")))
        for key in (1, 2):
            image = encode_image(crop(key), ".jpg")
            writer.write(key, pack_image(ImageRecord(np.array([key + 6], np.float32), image, key)))
        writer.write(3, pack_image(ImageRecord(np.array([1, 3], np.float32), b"")))
    dataset = RecordDataset(tmp_path / "a.rec")
    assert dataset.keys.tolist() == [1, 2]
    assert dataset.identities.tolist() == [7, 8]
    assert np.abs(dataset.image(0).astype(int) - crop(1)).mean() < 4


def test_opening_reads_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_records(tmp_path / "a.rec", [[0], [1]])

    def refuse(*_: object) -> None:
        raise AssertionError("an image record was read whole")

    with monkeypatch.context() as patch:
        patch.setattr(RecordFile, "read", lambda file, key: file.read_at(0) if key == 0 else refuse())
        patch.setattr(module, "decode_crop", refuse)
        dataset = RecordDataset(path)
    assert dataset.labels.tolist() == [0, 1]


MAGIC_NUMBER = 0xCED7230A


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 1000).map(float), min_size=1, max_size=3),
            st.sampled_from([0, 1, MAGIC_NUMBER, MAGIC_NUMBER << 32]),
            st.binary(max_size=9),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_labels_equal_those_of_the_unpacked_records(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[list[float], int, bytes]]
) -> None:
    """An id that holds the magic splits the header itself into parts; images may be shorter than a header."""
    path = tmp_path_factory.mktemp("labels") / "a.rec"
    with RecordWriter(path) as writer:
        for key, (labels, number, image) in enumerate(drawn):
            writer.write(key, pack_image(ImageRecord(np.array(labels, np.float32), image, number)))
    file = RecordFile(path)
    expected = [unpack_image(file.read(key)).labels[0] for key in file.keys]
    offsets = np.array([file.offset(key) for key in file.keys], np.int64)
    assert read_labels(file, offsets).tolist() == expected
    assert read_labels(file, offsets[::-1]).tolist() == expected[::-1]


def test_a_folder_with_its_property(tmp_path: Path) -> None:
    write_records(tmp_path / "train.rec", [[0], [1], [1]])
    assert RecordDataset(tmp_path).classes == 2
    (tmp_path / "property").write_text("2,112,112\n")
    assert RecordDataset(tmp_path).classes == 2
    for text, message in (
        ("3,112,112", "property announces 3 identities, and the records hold 2; correct or remove it"),
        ("2,96,112", "property announces images of 112x96; expected 112x112"),
        ("2;112;112", "property holds '2;112;112'; expected \"classes,height,width\""),
        ("", "property holds ''"),
    ):
        (tmp_path / "property").write_text(text)
        with pytest.raises(PocketNetError) as caught:
            RecordDataset(tmp_path)
        assert message in str(caught.value)
        assert RecordDataset(tmp_path / "train.rec").classes == 2


@pytest.mark.parametrize("label", [-1.0, 0.5, float("nan"), float("inf")])
def test_a_label_that_is_no_identity(tmp_path: Path, label: float) -> None:
    path = write_records(tmp_path / "a.rec", [[0], [label]])
    offset = RecordFile(path).offset(1)
    with pytest.raises(
        CorruptRecordError, match=rf"a\.rec: key 1 \(offset {offset}\): the label .* is no id"
    ):
        RecordDataset(path)


def test_nothing_to_train_on(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "a.rec") as writer:
        writer.write(0, pack_image(ImageRecord(np.array([1, 1], np.float32), b"")))
    with pytest.raises(PocketNetError, match=r"a\.rec holds no image"):
        RecordDataset(tmp_path / "a.rec")


def overwrite(path: Path, at: int, patch: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[at : at + len(patch)] = patch
    path.write_bytes(content)


def test_damage_names_file_and_offset(tmp_path: Path) -> None:
    path = write_records(tmp_path / "a.rec", [[0], [1], [2]])
    file = RecordFile(path)
    second, third = file.offset(1), file.offset(2)

    # Inside the compressed pixels, which the PNG's checksum covers.
    overwrite(path, second + 500, b"damaged!")
    dataset = RecordDataset(path)
    with pytest.raises(
        PocketNetError, match=rf"a\.rec: key 1 \(offset {second}\) is damaged: the PNG's chunk"
    ):
        dataset.image(1)
    np.testing.assert_array_equal(dataset.image(2), crop(2))
    assert damaged_records(path) == {}

    # In a header: the identity is lost, and so the dataset.
    overwrite(path, third, b"\0\0\0\0")
    with pytest.raises(CorruptRecordError, match=rf"a\.rec: offset {third}: no record starts here"):
        RecordDataset(path)
    assert list(damaged_records(path)) == [2]
    with pytest.raises(CorruptRecordError, match=rf"offset {third}: no record"):
        dataset.image(2)


def test_damaged_headers(tmp_path: Path) -> None:
    for at, patch, message in (
        (4, struct.pack("<I", 20), "20 bytes are too few for an image record"),
        (4, struct.pack("<I", 1 << 28), "the record of 268435456 bytes passes the end"),
        (8, struct.pack("<I", 1 << 24), "16777216 labels do not fit"),
    ):
        path = write_records(tmp_path / "a.rec", [[0], [1]])
        offset = RecordFile(path).offset(1)
        overwrite(path, offset + at, patch)
        with pytest.raises(CorruptRecordError, match=message) as caught:
            RecordDataset(path)
        assert f"a.rec: offset {offset}" in str(caught.value)
    cut = path.read_bytes()[: offset + 30]
    path.write_bytes(cut)
    with pytest.raises(CorruptRecordError, match=f"offset {offset}: the record of .* passes the end"):
        RecordDataset(path)


def test_another_size(tmp_path: Path) -> None:
    dataset = RecordDataset(write_records(tmp_path / "a.rec", [[0]], size=64))
    with pytest.raises(PocketNetError, match=r"a\.rec: key 0 \(offset 0\) has 64x64 pixels; expected"):
        dataset.image(0)


def test_pickled_to_another_process(tmp_path: Path) -> None:
    dataset = RecordDataset(write_records(tmp_path / "a.rec", [[0], [1]]))
    dataset.image(0)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(dataset)).image(1), crop(1))


def test_a_real_dataset(shared_dir: Path) -> None:
    path = shared_dir / "data" / "transfer"
    if not path.is_dir():
        pytest.skip(f"no recorded dataset {path}")
    dataset = RecordDataset(path)
    assert (len(dataset), dataset.classes) == (15_850, 15_850)
    assert dataset.labels.tolist() == list(range(15_850))
    for index in range(0, len(dataset), 997):
        image = dataset.image(index)
        assert image.shape == (112, 112, 3)
        assert image.std() > 10
