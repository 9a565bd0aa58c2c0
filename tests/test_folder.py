"""Folders of folders as datasets: the order of identities and images, and every refusal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from faces import crop, write_folder

from pocketnet_fast.data.folder import FolderDataset
from pocketnet_fast.data.images import encode_image
from pocketnet_fast.errors import PocketNetError


def test_order_of_identities_and_images(tmp_path: Path) -> None:
    dataset = FolderDataset(write_folder(tmp_path, {"zoe": 1, "Adam": 2, "10": 3}))
    assert dataset.identities == ["10", "Adam", "zoe"]
    assert dataset.labels.tolist() == [0, 0, 0, 1, 1, 2]
    assert dataset.classes == 3
    assert [file.parent.name for file in dataset.files] == ["10"] * 3 + ["Adam"] * 2 + ["zoe"]
    for index in range(len(dataset)):
        np.testing.assert_array_equal(dataset.image(index), crop(index))


def test_what_is_passed_over(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": 1, "b": 1})
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "README.txt").write_text("x")
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "a" / ".0.png").write_bytes(b"")
    (tmp_path / "a" / "SECOND.PNG").write_bytes(encode_image(crop(9), ".png"))
    dataset = FolderDataset(tmp_path)
    assert [file.name for file in dataset.files] == ["0.png", "SECOND.PNG", "0.png"]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
def test_kinds_of_image(tmp_path: Path, suffix: str) -> None:
    dataset = FolderDataset(write_folder(tmp_path, {"a": 1}, suffix))
    assert np.abs(dataset.image(0).astype(int) - crop(0)).mean() < 5


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(PocketNetError, match="nowhere cannot be read: No such file"):
        FolderDataset(tmp_path / "nowhere")
    with pytest.raises(PocketNetError, match="holds no folders; expected one for every identity"):
        FolderDataset(tmp_path)
    write_folder(tmp_path, {"a": 1})
    with pytest.raises(PocketNetError, match=r"0\.png is no folder"):
        FolderDataset(tmp_path / "a" / "0.png")
    (tmp_path / "b").mkdir()
    with pytest.raises(PocketNetError, match=r"b holds no image; expected files \.jpg"):
        FolderDataset(tmp_path)


def test_bad_images_name_their_file(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": 1})
    (tmp_path / "a" / "1.jpg").write_bytes(encode_image(crop(1), ".jpg")[:-400])
    (tmp_path / "a" / "2.png").write_bytes(encode_image(crop(1, 100), ".png"))
    (tmp_path / "a" / "3.png").write_bytes(b"")
    dataset = FolderDataset(tmp_path)
    dataset.image(0)
    for index, message in (
        (1, r"a/1\.jpg is damaged: the JPEG ends"),
        (2, r"a/2\.png has 100x100 pixels; expected an aligned crop of 112x112"),
        (3, r"a/3\.png is empty"),
    ):
        with pytest.raises(PocketNetError, match=message):
            dataset.image(index)
    (tmp_path / "a" / "0.png").unlink()
    with pytest.raises(PocketNetError, match=r"a/0\.png: no such file"):
        dataset.image(0)
