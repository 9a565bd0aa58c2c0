"""Frontal crops seen from the side: the picture laid on a head's surface, turned, and aligned again.

Recognition sets hold few strongly turned faces. A head of average proportions under the five landmarks of the
alignment template takes the picture as its skin; seen from another side and aligned by its own landmarks, as
a detector's would be, it is a view that a network can be taught. What the picture does not show, the far side
of the nose and of the cheeks, stays smeared: at strong turns such a view helps in distillation, where a
teacher answers for it, more than it would under a label.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

import cv2
import numpy as np

from pocketnet_fast.data.alignment import CROP_SIZE, TEMPLATE, similarity_transform
from pocketnet_fast.data.head_surface import FloatArray, rotation_matrix
from pocketnet_fast.data.images import ImageArray
from pocketnet_fast.data.person import draw_person
from pocketnet_fast.data.skin_map import Head

_HEADS: Final = 8
_YAW_STEP: Final = 3
_PITCH_STEP: Final = 5
_MAX_YAW: Final = 90
_MAX_PITCH: Final = 20


class _Mapping(NamedTuple):
    """Where each pixel of the turned view lies in the frontal picture, and how much of it is head."""

    map_x: FloatArray
    map_y: FloatArray
    cover: FloatArray


def turn_face(image: ImageArray, rng: np.random.Generator) -> ImageArray:
    """Show a frontal face from another side.

    The yaw is up to 90 degrees to either side, strong ones more often than a uniform draw would give them;
    the pitch is up to 20 degrees; the head's proportions are one of eight. What lies behind the head is
    black, one colour, or a blur of the picture.

    Args:
        image: 112 x 112 x 3 uint8, RGB, aligned.
        rng: What the view depends on.

    Returns:
        An aligned crop of the same kind.
    """
    yaw = int(rng.choice((-1, 1)) * round(_MAX_YAW / _YAW_STEP * rng.random() ** 0.7)) * _YAW_STEP
    pitch = round(rng.uniform(-1, 1) * _MAX_PITCH / _PITCH_STEP) * _PITCH_STEP
    view = _mapping(int(rng.integers(_HEADS)), yaw, pitch)
    turned = cv2.remap(image, view.map_x, view.map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    behind = _background(image, rng)
    cover = view.cover[:, :, None]
    return np.asarray(behind + (turned - behind) * cover + 0.5, np.uint8)


def _background(image: ImageArray, rng: np.random.Generator) -> FloatArray:
    kind = rng.integers(3)
    if kind == 0:
        return np.zeros(image.shape, np.float32)
    if kind == 1:
        return np.broadcast_to(rng.integers(0, 256, 3), image.shape).astype(np.float32)
    small = cv2.resize(image, (4, 4), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_LINEAR).astype(np.float32)


@lru_cache(maxsize=_HEADS)
def _head(number: int) -> Head:
    return Head(draw_person(np.random.default_rng(number)))


# 8 heads x 61 yaws x 9 pitches would take 0.5 GB; a third of that is drawn again often enough.
@lru_cache(maxsize=1024)
def _mapping(number: int, yaw: int, pitch: int) -> _Mapping:
    head = _head(number)
    frontal = similarity_transform(head.landmarks[:, :2], TEMPLATE)
    rotation = rotation_matrix(np.radians(yaw), np.radians(pitch), 0.0)
    to_crop = similarity_transform((head.landmarks @ rotation.T)[:, :2], TEMPLATE)
    view = head.surface.meet(rotation, to_crop)
    inverse = np.linalg.inv(to_crop[:, :2])
    y, x = np.mgrid[:CROP_SIZE, :CROP_SIZE].reshape(2, -1)
    seen = inverse @ (np.stack([x, y]) - to_crop[:, 2:])
    depth = view.depth.reshape(1, -1) / np.hypot(*to_crop[0, :2])
    across = rotation.T @ np.concatenate([seen, depth])
    source = frontal[:, :2] @ across[:2] + frontal[:, 2:]
    map_x, map_y = source.reshape(2, CROP_SIZE, CROP_SIZE).astype(np.float32)
    return _Mapping(map_x, map_y, view.cover)
