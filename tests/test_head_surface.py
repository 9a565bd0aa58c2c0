"""The rendered head's geometry: where rays meet it, where its landmarks land."""

from __future__ import annotations

import numpy as np
import pytest

from pocketnet_fast.data.alignment import TEMPLATE
from pocketnet_fast.data.head_surface import (
    MAP_QX,
    MAP_QY,
    MAP_QZ,
    MAP_SIZE,
    HeadSurface,
    crop_transform,
    rotation_matrix,
)
from pocketnet_fast.data.person import draw_person
from pocketnet_fast.data.skin_map import Head

ZERO = np.zeros((5, 2))


def test_map_and_directions_are_inverse() -> None:
    """For a head that is a sphere about the origin, head coordinates are directions."""
    sphere = HeadSurface((1.0, 1.0, 1.0), 0.0, 0.0)
    rows, columns = np.nonzero(MAP_QZ > 0.05)
    texels = sphere.map_point(np.column_stack([MAP_QX[rows, columns], MAP_QY[rows, columns]]))
    np.testing.assert_allclose(texels, np.column_stack([columns, rows]), atol=1e-3)
    on_it = MAP_QZ > -0.99  # the map's corners are no places on the sphere
    np.testing.assert_allclose((MAP_QX**2 + MAP_QY**2 + MAP_QZ**2)[on_it], 1, atol=1e-5)


def test_rotation_is_a_rotation() -> None:
    rotation = rotation_matrix(0.4, -0.3, 0.2)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1)
    # A head that turns to a positive yaw looks to the right of the image.
    assert rotation_matrix(0.4, 0, 0)[0, 2] > 0


@pytest.mark.parametrize("yaw", [-0.6, 0.0, 0.3])
@pytest.mark.parametrize("pitch", [-0.3, 0.2])
def test_rays_meet_points_where_they_project(yaw: float, pitch: float) -> None:
    errors = []
    rotation = rotation_matrix(yaw, pitch, 0.1)
    for seed in range(6):
        head = Head(draw_person(np.random.default_rng(seed)))
        to_crop = crop_transform((head.landmarks @ rotation.T)[:, :2], ZERO)
        view = head.surface.meet(rotation, to_crop)
        # Away from the outline and from the nose, where another part of the surface may lie before the point.
        front = [(-0.3, -0.3), (0.3, -0.3), (0.0, -0.4), (-0.5, 0.6), (0.5, 0.6), (0.1, 1.3)]
        pixels = (head.surface.point(front) @ rotation.T)[:, :2] @ to_crop[:, :2].T + to_crop[:, 2]
        for pixel, texel in zip(pixels, head.surface.map_point(front), strict=True):
            column, row = np.rint(pixel).astype(int)
            found = np.array((view.map_x[row, column], view.map_y[row, column]))
            assert view.cover[row, column] == 1
            errors.append(np.linalg.norm(found - texel) * 35 / 55)
    # Pixels, of which up to 0.7 are the rounding.
    assert np.median(errors) < 1
    assert max(errors) < 3


def test_an_ellipsoid_has_the_outline_of_one() -> None:
    surface = HeadSurface((1.2, 1.6, 1.4), 0.1, 0.0)
    scale, centre = 30.0, (50.0, 52.0)
    to_crop = np.array([[scale, 0, centre[0]], [0, scale, centre[1]]])
    view = surface.meet(np.eye(3), to_crop)
    area = np.pi * 1.2 * 1.6 * scale**2
    assert view.cover.sum() == pytest.approx(area, rel=0.01)
    y, x = np.mgrid[:112, :112]
    assert (view.cover * x).sum() / view.cover.sum() == pytest.approx(centre[0], abs=0.1)
    assert (view.cover * y).sum() / view.cover.sum() == pytest.approx(centre[1] + 0.1 * scale, abs=0.1)
    height = 1.4 * scale * np.sqrt(np.maximum(0, 1 - ((x - 50) / 36) ** 2 - ((y - 55) / 48) ** 2))
    inside = view.cover == 1
    np.testing.assert_allclose((view.depth - scale * surface.centre[2])[inside], height[inside], atol=0.01)


def test_crops_are_aligned_with_the_template() -> None:
    distances = []
    for seed in range(40):
        head = Head(draw_person(np.random.default_rng(seed)))
        for yaw in (0.0, 0.5):
            landmarks = (head.landmarks @ rotation_matrix(yaw, 0.1, 0.3).T)[:, :2]
            to_crop = crop_transform(landmarks, ZERO)
            distances.append(np.abs(landmarks @ to_crop[:, :2].T + to_crop[:, 2] - TEMPLATE).max())
            moved = crop_transform(landmarks, np.full((5, 2), 2.0))
            # All landmarks seen 2 pixels too far right and low: the crop shows the face as far left and high.
            np.testing.assert_allclose(moved[:, 2], to_crop[:, 2] - 2, atol=1e-6)
    # Faces are not alike: proportions and pose leave some pixels, as for real faces.
    assert np.median(distances) < 8
    assert 1 < max(distances) < 20


def test_the_map_reaches_behind_the_ears() -> None:
    assert MAP_QZ[MAP_SIZE // 2, 0] < 0
