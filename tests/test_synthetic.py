"""Synthetic people: the same wherever they are asked for, distinct, and not told apart by colour alone."""

from __future__ import annotations

import subprocess
import sys
import zlib
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from pocketnet_fast.data.alignment import TEMPLATE
from pocketnet_fast.data.images import ImageArray, decode_image
from pocketnet_fast.data.synthetic import SyntheticDataset, render_identity, verification_pairs
from pocketnet_fast.errors import PocketNetError


def test_dataset() -> None:
    dataset = SyntheticDataset(3, 4, seed=1)
    assert (len(dataset), dataset.classes) == (12, 3)
    assert dataset.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    image = dataset.image(5)
    assert (image.shape, image.dtype) == ((112, 112, 3), np.uint8)
    np.testing.assert_array_equal(dataset.image(-1), dataset.image(11))
    with pytest.raises(IndexError):
        dataset.image(12)


def test_an_identity_is_the_same_whatever_the_other_arguments() -> None:
    image = SyntheticDataset(3, 4, seed=1).image(2 * 4 + 1)
    for dataset, index in (
        (SyntheticDataset(50, 4, seed=1), 9),
        (SyntheticDataset(3, 2, seed=1), 5),
        (SyntheticDataset(1, 4, seed=1, first_identity=2), 1),
    ):
        np.testing.assert_array_equal(dataset.image(index), image)
    for other in (SyntheticDataset(3, 4, seed=2), SyntheticDataset(3, 4, seed=1, first_identity=1)):
        assert (other.image(9) != image).mean() > 0.5


def test_another_process_renders_the_same() -> None:
    code = (
        "import zlib; from pocketnet_fast.data.synthetic import render_identity\n"
        "print(*[zlib.crc32(render_identity(5, k, 3)) for k in (8, 0)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(zlib.crc32(render_identity(5, k, 3).tobytes())) for k in (8, 0)]


def test_refusals() -> None:
    for arguments in ((0, 1), (1, 0), (1, 1, -1), (1, 1, 0, -1)):
        with pytest.raises(PocketNetError, match="expected at least one identity and image"):
            SyntheticDataset(*arguments)
    for arguments in ((1, 1), (2, 0), (2, 1, -1), (2, 1, 0, -1)):
        with pytest.raises(PocketNetError, match="expected at least one pair and two identities"):
            verification_pairs(*arguments)


def test_features_lie_near_the_template() -> None:
    """In the mean of many people the eyes are dark, and darkest near their place; so is the mouth red."""
    mean = np.mean([render_identity(0, k, 0).astype(np.float64) for k in range(150)], 0)
    grey = mean.mean(2)
    smooth = cv2.GaussianBlur(grey, (0, 0), 2)
    for x, y in TEMPLATE[:2]:
        around = smooth[int(y) - 7 : int(y) + 8, int(x) - 10 : int(x) + 11]
        row, column = np.unravel_index(around.argmin(), around.shape)
        assert abs(row - 7) < 6
        assert abs(column - 10) < 8
        assert around.min() < smooth[int(y) + 20, int(x)] - 15  # the cheek
    redness = cv2.GaussianBlur(mean[..., 0] - mean[..., 1:].mean(2), (0, 0), 2)
    mouth = TEMPLATE[3:].mean(0).round().astype(int)
    row = redness[mouth[1] - 15 : mouth[1] + 15, mouth[0]].argmax()
    assert abs(row - 15) < 6


@lru_cache(maxsize=1)
def pairs() -> tuple[list[ImageArray], npt.NDArray[np.bool_]]:
    images, same = verification_pairs(100, 400, first_identity=1000)
    return [decode_image(image) for image in images], same


def test_pairs() -> None:
    images, same = pairs()
    assert len(images) == 800
    assert same.tolist() == [True, False] * 200
    assert len({image.tobytes() for image in images}) == 800
    again, _ = verification_pairs(100, 3, first_identity=1000)
    assert len(again) == 6
    other, _ = verification_pairs(100, 3, first_identity=2000)
    assert set(again).isdisjoint(other)


def test_pairs_show_who_they_say() -> None:
    """With two identities, a pair of one person shows him twice, and one of two shows both."""
    calls = []
    images, same = verification_pairs(2, 6, seed=3, on_image=lambda: calls.append(None))
    assert len(calls) == 12
    shown = []
    for number, image in enumerate(images):
        here = [
            k for k in (0, 1) if np.array_equal(decode_image(image), render_identity(3, k, 10**6 + number))
        ]
        shown += here
    assert [a == b for a, b in zip(shown[::2], shown[1::2], strict=True)] == same.tolist()


def accuracy(features: npt.NDArray[np.float64]) -> float:
    """Of the cosine at its best threshold, chosen on the same pairs: an upper bound. 2N x D."""
    unit = features / (np.linalg.norm(features, axis=1, keepdims=True) + 1e-12)
    cosine = (unit[::2] * unit[1::2]).sum(1)
    return max(float(((cosine >= threshold) == pairs()[1]).mean()) for threshold in cosine)


def color_histogram(image: ImageArray) -> npt.NDArray[np.float64]:
    counts = cv2.calcHist([image], [0, 1, 2], None, [8, 8, 8], [0, 256] * 3).ravel()
    return np.sqrt(counts, dtype=np.float64)


def test_colour_and_pixels_do_not_tell_people_apart() -> None:
    images, _ = pairs()
    mean = np.array([image.mean((0, 1)) for image in images])
    histograms = np.array([color_histogram(image) for image in images])
    faces = np.array([color_histogram(image[30:100, 20:90].copy()) for image in images])
    small = np.array([cv2.resize(image, (16, 16), interpolation=cv2.INTER_AREA).ravel() for image in images])
    for features in (mean, histograms, faces, small.astype(np.float64)):
        for centred in (features, features - features.mean(0)):
            assert accuracy(centred) < 0.70


def patches(image: ImageArray) -> npt.NDArray[np.float64]:
    small = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2LAB), (24, 24), interpolation=cv2.INTER_AREA)
    values = small.astype(np.float64) - small.mean((0, 1))
    return (values / (values.std((0, 1)) + 1)).ravel()


def test_what_is_learned_from_some_people_tells_others_apart() -> None:
    """Fisher's linear discriminant, the simplest learner of identities, far above chance on unseen people."""
    identities, images = 100, 10
    dataset = SyntheticDataset(identities, images)
    x = np.stack([patches(dataset.image(index)) for index in range(len(dataset))])
    means = x.reshape(identities, images, -1).mean(1)
    inner = x - means.repeat(images, 0)
    within = inner.T @ inner / len(x)
    within += 0.1 * np.trace(within) / len(within) * np.eye(len(within))
    whiten = np.linalg.inv(np.linalg.cholesky(within)).T
    directions = np.linalg.svd((means - x.mean(0)) @ whiten, full_matrices=False)[2][:60]
    shown = np.stack([patches(image) for image in pairs()[0]])
    assert accuracy((shown - x.mean(0)) @ whiten @ directions.T) > 0.78
