"""Opening datasets: every kind by its path, and every refusal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from faces import crop, png_of_size, write_folder, write_records

from pocketnet_fast.data.dataset import FaceDataset, decode_crop
from pocketnet_fast.data.folder import FolderDataset
from pocketnet_fast.data.images import encode_image
from pocketnet_fast.data.opening import open_dataset
from pocketnet_fast.data.records import RecordDataset
from pocketnet_fast.data.synthetic import SyntheticDataset
from pocketnet_fast.errors import PocketNetError


def test_every_kind_is_recognised(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder", {"a": 2, "b": 1})
    write_records(tmp_path / "faces.rec", [[0], [1], [1]])
    (tmp_path / "records").mkdir()
    write_records(tmp_path / "records" / "train.rec", [[0], [1], [1]])
    for source, kind in (
        (tmp_path / "folder", FolderDataset),
        (str(tmp_path / "faces.rec"), RecordDataset),
        (tmp_path / "records", RecordDataset),
        ("synthetic:identities=2,images=2,seed=3", SyntheticDataset),
    ):
        dataset = open_dataset(source)
        assert type(dataset) is kind
        assert isinstance(dataset, FaceDataset)
        assert dataset.classes == 2
        assert len(dataset) == len(dataset.labels)
        assert dataset.labels.dtype == np.int64
        assert set(dataset.labels) == {0, 1}
        image, label = dataset[len(dataset) - 1]
        assert (image.shape, image.dtype, label) == ((112, 112, 3), np.uint8, 1)
        np.testing.assert_array_equal(image, dataset.image(len(dataset) - 1))


def test_synthetic_options() -> None:
    default = open_dataset("synthetic")
    assert (default.classes, len(default)) == (64, 64 * 20)
    assert open_dataset("synthetic:").name == default.name
    other = open_dataset("synthetic:images=3,first_identity=7")
    assert other.name == "synthetic:identities=64,images=3,seed=0,first_identity=7"
    assert open_dataset(other.name).name == other.name


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("synthetic:people=3", "'people=3' is no option; expected KEY=N with KEY one of identities"),
        ("synthetic:images=many", "'images=many' is no option"),
        ("synthetic:images", "'images' is no option"),
        ("synthetic:images=-1", "'images=-1' is no option"),
        ("synthetic:images=1,images=2", "images stands twice"),
        ("synthetic:images=0", "at least one identity and image"),
        ("nowhere", "nowhere does not exist; expected a .rec file, a folder with train.rec, a folder of"),
        ("nowhere.rec", "nowhere.rec: no such record file"),
    ],
)
def test_refusals(source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PocketNetError) as caught:
        open_dataset(source)
    assert message in str(caught.value)


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"x")
    with pytest.raises(PocketNetError, match=r"a\.zip is neither a \.rec file nor a folder"):
        open_dataset(path)


def test_crops_are_not_scaled() -> None:
    np.testing.assert_array_equal(decode_crop(encode_image(crop(1), ".png"), "x"), crop(1))
    with pytest.raises(PocketNetError, match="photo has 96x96 pixels; expected an aligned crop of 112x112"):
        decode_crop(encode_image(crop(1, 96), ".png"), "photo")
    with pytest.raises(PocketNetError, match="photo is a text, not an image; expected JPEG"):
        decode_crop(b"no image", "photo")


def test_a_stated_size_takes_no_memory() -> None:
    # 3.6 gigapixels, of which the file holds none.
    with pytest.raises(PocketNetError, match=r"a\.png has 60000x60000 pixels; expected an aligned crop"):
        decode_crop(png_of_size(60000, 60000), "a.png")
