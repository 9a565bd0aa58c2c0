"""Frontal crops seen from the side."""

from __future__ import annotations

import numpy as np
import pytest

from pocketnet_fast.data import turned_view
from pocketnet_fast.data.alignment import TEMPLATE
from pocketnet_fast.data.augment import Augmentation
from pocketnet_fast.data.turned_view import turn_face


def spot(x: float, y: float) -> np.ndarray:
    """A bright spot on grey."""
    across, down = np.meshgrid(np.arange(112), np.arange(112))
    bright = 200 * np.exp(-((across - x) ** 2 + (down - y) ** 2) / 8)
    return np.repeat((30 + bright).astype(np.uint8)[:, :, None], 3, axis=2)


def seen(image: np.ndarray, yaw: int, head: int = 0) -> np.ndarray:
    import cv2

    view = turned_view._mapping(head, yaw, 0)
    return np.asarray(cv2.remap(image, view.map_x, view.map_y, cv2.INTER_LINEAR))


@pytest.mark.parametrize("head", range(3))
@pytest.mark.parametrize("landmark", range(5))
def test_a_frontal_view_is_the_picture_itself(head: int, landmark: int) -> None:
    x, y = TEMPLATE[landmark]
    image = spot(x, y)
    view = turned_view._mapping(head, 0, 0)
    inside = view.cover > 0.99
    difference = np.abs(seen(image, 0, head).astype(int) - image)[inside]
    assert difference.max() <= 2


def test_the_side_that_turns_away_vanishes() -> None:
    left, right = spot(*TEMPLATE[0]), spot(*TEMPLATE[1])
    bright = {yaw: [int(seen(eye, yaw).max()) for eye in (left, right)] for yaw in (-75, 75)}
    assert bright[75][0] > 150 or bright[75][1] > 150
    assert (bright[75][0] > bright[75][1]) != (bright[-75][0] > bright[-75][1])


def test_draws_depend_on_the_generator_alone() -> None:
    image = spot(50, 60)
    first = [turn_face(image, np.random.default_rng(seed)) for seed in range(6)]
    again = [turn_face(image, np.random.default_rng(seed)) for seed in range(6)]
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
        assert (one.shape, one.dtype) == ((112, 112, 3), np.uint8)
    assert len({one.tobytes() for one in first}) > 3


def test_as_an_augmentation() -> None:
    image = spot(50, 60)
    rng = np.random.default_rng(3)
    assert not np.array_equal(Augmentation(flip=0, turn=1.0)(image.copy(), rng), image)
