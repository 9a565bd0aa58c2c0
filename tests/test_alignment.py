"""Alignment: the transform against scikit-image, the crop against what the template promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketnet_fast.data.alignment import TEMPLATE, align, similarity_transform
from pocketnet_fast.errors import PocketNetError

pytest.importorskip("cv2")

coordinates = st.floats(-1e4, 1e4)
angles = st.floats(-np.pi, np.pi)
scales = st.floats(1e-2, 1e2)


def similarity(scale: float, angle: float, x: float, y: float) -> np.ndarray:
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s, x], [s, c, y]])


def estimate_by_scikit_image(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    transform = pytest.importorskip("skimage.transform").SimilarityTransform
    if hasattr(transform, "from_estimate"):
        return transform.from_estimate(source, target).params[:2]
    found = transform()
    assert found.estimate(source, target)
    return found.params[:2]


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


@given(scales, angles, coordinates, coordinates)
def test_recovers_a_similarity(scale: float, angle: float, x: float, y: float) -> None:
    truth = similarity(scale, angle, x, y)
    found = similarity_transform(TEMPLATE, apply(truth, TEMPLATE))
    np.testing.assert_allclose(found, truth, rtol=1e-9, atol=1e-7)
    back = similarity_transform(apply(truth, TEMPLATE), TEMPLATE)
    np.testing.assert_allclose(apply(back, apply(truth, TEMPLATE)), TEMPLATE, atol=1e-5)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 9), st.floats(0, 30))
def test_agrees_with_scikit_image(seed: int, count: int, noise: float) -> None:
    random = np.random.default_rng(seed)
    source = random.uniform(0, 200, (count, 2))
    target = apply(similarity(random.uniform(0.2, 3), random.uniform(-3, 3), 5, -7), source)
    target += random.normal(0, noise, target.shape)
    reference = estimate_by_scikit_image(source, target)
    np.testing.assert_allclose(similarity_transform(source, target), reference, atol=1e-8)


def test_never_reflects() -> None:
    mirrored = TEMPLATE * (-1, 1) + (112, 0)
    matrix = similarity_transform(mirrored, TEMPLATE)
    assert np.linalg.det(matrix[:, :2]) > 0
    reference = estimate_by_scikit_image(mirrored, TEMPLATE)
    np.testing.assert_allclose(matrix, reference, atol=1e-8)


@pytest.mark.parametrize(
    ("landmarks", "message"),
    [
        (np.full((5, 2), 40.0), "coincide"),
        (np.full((5, 2), 40.0) + np.eye(5, 2) * 1e-9, "coincide"),
        (np.where(np.eye(5, 2) > 0, np.nan, TEMPLATE), "finite"),
        (np.where(np.eye(5, 2) > 0, np.inf, TEMPLATE), "finite"),
        (TEMPLATE[:4], "5 x 2 landmarks"),
        (TEMPLATE.ravel(), "5 x 2 landmarks"),
    ],
)
def test_unusable_landmarks(landmarks: np.ndarray, message: str) -> None:
    with pytest.raises(PocketNetError, match=message):
        align(np.zeros((10, 10, 3), np.uint8), landmarks)


def test_points_without_any_similarity() -> None:
    # A square against itself with two corners exchanged: every rotation fits equally badly.
    square = np.array([(0.0, 0), (1, 0), (1, 1), (0, 1)])
    with pytest.raises(PocketNetError, match="unlike the template"):
        similarity_transform(square * (1, -1), square)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((10, 10), np.uint8),
        np.zeros((10, 10, 4), np.uint8),
        np.zeros((10, 10, 3), np.float32),
        np.zeros((0, 10, 3), np.uint8),
    ],
)
def test_unusable_images(image: np.ndarray) -> None:
    with pytest.raises(PocketNetError, match="H x W x 3 uint8"):
        align(image, TEMPLATE)


def test_unusable_size() -> None:
    with pytest.raises(PocketNetError, match="size"):
        align(np.zeros((10, 10, 3), np.uint8), TEMPLATE, 0)


def test_an_aligned_crop_stays_as_it_is() -> None:
    image = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    np.testing.assert_array_equal(align(image, TEMPLATE), image)
    # A view with other strides is the same picture.
    wide = np.repeat(image, 2, axis=1)
    np.testing.assert_array_equal(align(wide[:, ::2], TEMPLATE), image)


@pytest.mark.parametrize("size", [56, 112, 224])
def test_landmarks_land_on_the_template(size: int) -> None:
    truth = similarity(2.3, 0.4, 120, 80)
    landmarks = apply(truth, TEMPLATE)
    # A ramp in x and y is linear, so bilinear sampling reads positions off it.
    y, x = np.mgrid[0:500, 0:500]
    image = np.dstack([x / 2, y / 2, np.full_like(x, 255)]).astype(np.uint8)
    crop = align(image, landmarks, size)
    assert crop.shape == (size, size, 3)
    at = np.rint(TEMPLATE * (size / 112)).astype(int)
    expected = apply(truth, at * (112 / size)) / 2
    np.testing.assert_allclose(crop[at[:, 1], at[:, 0], :2], expected, atol=1.5)


def test_outside_is_black() -> None:
    crop = align(np.full((60, 60, 3), 200, np.uint8), TEMPLATE)
    assert (crop[:60, :60] == 200).all()
    assert (crop[61:] == 0).all()
    assert (crop[:, 61:] == 0).all()
