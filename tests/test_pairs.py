"""Verification pairs of every kind: opening, converting, reading image by image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from faces import crop
from pair_files import drawn_pairs

from pocketnet_fast.data.images import encode_image
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.evaluation.pair_files import open_pairs, write_pairs
from pocketnet_fast.evaluation.pairs import VerificationPairs

KINDS = ["a.bin", "a.npz", "a"]


@pytest.mark.parametrize("source", KINDS)
@pytest.mark.parametrize("target", KINDS)
def test_every_kind_becomes_every_other(tmp_path: Path, source: str, target: str) -> None:
    pairs = drawn_pairs(3, ".jpg")
    steps = []
    write_pairs(tmp_path / source, pairs, lambda: steps.append(1))
    assert len(steps) == 6
    (tmp_path / "again").mkdir()
    write_pairs(tmp_path / "again" / target, open_pairs(tmp_path / source))
    opened = open_pairs(tmp_path / "again" / target)
    assert len(opened) == 3
    assert len(opened.images) == 6
    assert list(opened.images) == pairs.images
    assert opened.images[5] == opened.images[-1] == pairs.images[5]
    assert opened.images[1:3] == pairs.images[1:3]
    assert opened.same.dtype == bool
    assert opened.same.tolist() == [True, False, True]


@pytest.mark.parametrize("kind", KINDS)
def test_crops(tmp_path: Path, kind: str) -> None:
    write_pairs(tmp_path / kind, drawn_pairs(2))
    steps = []
    crops = list(open_pairs(tmp_path / kind).crops(lambda: steps.append(1)))
    assert len(crops) == len(steps) == 4
    np.testing.assert_array_equal(crops[0], crop(0))
    np.testing.assert_array_equal(crops[3], crop(4))


@pytest.mark.parametrize(
    ("kind", "place"), [("a.bin", "a.bin: image 2"), ("a.npz", "a.npz: image 2"), ("a", "a/1a.png")]
)
def test_an_unusable_image_is_named(tmp_path: Path, kind: str, place: str) -> None:
    good = drawn_pairs(2)
    damaged, large = good.images[2][:300], encode_image(crop(0, 128), ".png")
    for image, message in (
        (damaged, "is damaged"),
        (large, "128x128 pixels; expected an aligned crop of 112x112"),
    ):
        images = [*good.images[:2], image, good.images[3]]
        folder = tmp_path / message[:5]
        folder.mkdir()
        write_pairs(folder / kind, VerificationPairs(images, good.same))
        with pytest.raises(PocketNetError, match=f"{place} .*{message}"):
            list(open_pairs(folder / kind).crops())


def test_what_is_no_set_of_pairs(tmp_path: Path) -> None:
    (tmp_path / "a.zip").touch()
    for name, problem in (
        ("a.zip", "is none of these"),
        ("none", "does not exist"),
        ("none.rec", "does not exist"),
    ):
        with pytest.raises(
            PocketNetError, match=rf"{name} {problem}; expected a \.bin file, an \.npz file, or"
        ):
            open_pairs(tmp_path / name)
    with pytest.raises(PocketNetError, match=r"none\.bin: no such verification file"):
        open_pairs(tmp_path / "none.bin")
    with pytest.raises(PocketNetError, match=r"a\.zip: pairs are written to a \.bin file"):
        write_pairs(tmp_path / "a.zip", drawn_pairs(1))


@pytest.mark.parametrize("kind", KINDS)
def test_no_pair(tmp_path: Path, kind: str) -> None:
    write_pairs(tmp_path / kind, VerificationPairs([], np.zeros(0, bool)))
    with pytest.raises(PocketNetError, match=f"{kind} holds no pair"):
        open_pairs(tmp_path / kind)
