"""Several datasets as one: which images an epoch shows, how often, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from faces import crop, write_folder, write_records

from pocketnet_fast.data.mixture import MixtureDataset
from pocketnet_fast.data.opening import open_dataset
from pocketnet_fast.errors import PocketNetError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "records").mkdir()
    write_records(tmp_path / "records" / "train.rec", [[0], [0], [1], [2], [2]])
    write_folder(tmp_path / "people", {"a": 2, "b": 1})
    (tmp_path / "exclude.txt").write_text("2\n4\n")
    return tmp_path


def mixture(folder: Path, text: str) -> MixtureDataset:
    path = folder / "faces.toml"
    path.write_text(text)
    dataset = open_dataset(path)
    assert isinstance(dataset, MixtureDataset)
    return dataset


def test_images_and_identities(folder: Path) -> None:
    dataset = mixture(
        folder,
        '[[faces]]\nsource = "records"\nexclude = "exclude.txt"\n[[faces]]\nsource = "people"\nrepeat = 2\n',
    )
    # Of the records the places 0, 1 and 3, whose identities 0 and 2 become 0 and 1; then the folder twice.
    np.testing.assert_array_equal(dataset.labels, [0, 0, 1, 2, 2, 3, 2, 2, 3])
    assert dataset.classes == 4
    for index, number in enumerate((0, 1, 3, 0, 1, 2, 0, 1, 2)):
        np.testing.assert_array_equal(dataset.image(index), crop(number))


def test_a_synthetic_source(folder: Path) -> None:
    dataset = mixture(folder, '[[faces]]\nsource = "synthetic:identities=2,images=3"\n')
    assert (len(dataset), dataset.classes) == (6, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "one table"),
        ('faces = "x"', "one table"),
        ('[[faces]]\nsource = "people"\n[other]\n', "one table"),
        ("[[faces]]\nrepeat = 2\n", "no source"),
        ('[[faces]]\nsource = "people"\nweight = 2\n', "weight"),
        ('[[faces]]\nsource = "people"\nrepeat = 0\n', "number from 1"),
        ('[[faces]]\nsource = "people"\nrepeat = true\n', "number from 1"),
        ('[[faces]]\nsource = "people"\nexclude = 3\n', "file's path"),
        ('[[faces]]\nsource = "people"\nexclude = "none.txt"\n', "cannot be read"),
        ('[[faces]]\nsource = "people"\nexclude = "exclude.txt"\n', "places in people, 0 to 2"),
        ('[[faces]]\nsource = "faces.toml"\n', "mixture itself"),
        ('[[faces]]\nsource = "nowhere"\n', "does not exist"),
        ("[[faces]\n", "cannot be read"),
    ],
)
def test_refused(folder: Path, text: str, message: str) -> None:
    with pytest.raises(PocketNetError, match=message):
        mixture(folder, text)
