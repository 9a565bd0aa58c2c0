"""Rendering an aligned photo of a person: the head's surface, its skin, light, surroundings and camera."""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from pocketnet_fast.data.alignment import CROP_SIZE
from pocketnet_fast.data.head_surface import View, crop_transform, rotation_matrix
from pocketnet_fast.data.images import ImageArray
from pocketnet_fast.data.person import Shot
from pocketnet_fast.data.skin_map import Head

FloatArray = npt.NDArray[np.float32]

_SHIFT: Final = 4
_LUMA: Final = np.array((0.299, 0.587, 0.114), np.float32)


def render(head: Head, shot: Shot) -> ImageArray:
    """Render an aligned crop: 112 x 112 x 3 uint8, RGB."""
    rotation = rotation_matrix(shot.yaw, shot.pitch, shot.roll)
    to_crop = crop_transform((head.landmarks @ rotation.T)[:, :2], shot.landmark_error)
    view = head.surface.meet(rotation, to_crop)
    skin = cv2.remap(
        head.dressed(shot), view.map_x, view.map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    face = _lit(np.asarray(skin, np.uint8), view, shot)
    image = _surroundings(head, shot, rotation, to_crop)
    image += (face - image) * cv2.merge([view.cover] * 3)
    glasses = head.person.glasses if shot.wears_glasses else None
    if glasses is not None:
        _put_on_glasses(image, head, glasses, rotation, to_crop)
    if shot.occluder is not None:
        (x, y, width, height, angle), color = shot.occluder
        box = cv2.boxPoints(((x, y), (2 * width, 2 * height), float(np.degrees(angle))))
        cv2.fillPoly(image, [_fixed(np.asarray(box, np.float64))], color.tolist(), cv2.LINE_AA, _SHIFT)
    return _taken(image, shot)


def _lit(skin: npt.NDArray[np.uint8], view: View, shot: Shot) -> FloatArray:
    """Lambert's law with a soft edge, light from all around, and a highlight."""
    # The normal is (-ds/dx, -ds/dy, 1), scaled; Sobel's kernel sums to 8.
    nx = cv2.Sobel(view.depth, cv2.CV_32F, 1, 0, scale=-1 / 8)
    ny = cv2.Sobel(view.depth, cv2.CV_32F, 0, 1, scale=-1 / 8)
    # At the border Sobel sees no difference.
    nx[:, 0], nx[:, -1], ny[0], ny[-1] = nx[:, 1], nx[:, -2], ny[1], ny[-2]
    length = np.sqrt(nx * nx + ny * ny + 1)
    light = shot.light
    lambert = (nx * light[0] + ny * light[1] + light[2]) / length
    half = light + np.array((0, 0, 1), np.float32)
    half /= np.linalg.norm(half)
    glint = np.maximum((nx * half[0] + ny * half[1] + half[2]) / length, 0)
    for _ in range(4):  # to the power of 16
        glint *= glint
    # A little less light comes from below.
    around = 0.92 - 0.10 * ny / length
    lamp = np.maximum((lambert + 0.2) * (1 / 1.2), 0)
    glint *= shot.gloss
    channels = zip(cv2.split(skin), shot.diffuse, shot.ambient, strict=True)
    return np.asarray(
        cv2.merge(
            [
                plane * ((lamp * diffuse + around * ambient) * np.float32(1 / 255)) + glint * diffuse
                for plane, diffuse, ambient in channels
            ]
        ),
        np.float32,
    )


def _projected(
    points: npt.ArrayLike, rotation: npt.NDArray[np.float64], to_crop: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Pixels of points in head coordinates, N x 3."""
    view = (np.asarray(points) @ rotation.T)[:, :2]
    return np.asarray(view @ to_crop[:, :2].T + to_crop[:, 2])


def _fixed(pixels: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
    return np.rint(np.clip(pixels, -500, 500) * (1 << _SHIFT)).astype(np.int32)


def _surroundings(
    head: Head, shot: Shot, rotation: npt.NDArray[np.float64], to_crop: npt.NDArray[np.float64]
) -> FloatArray:
    """What is behind the head: a blurred background, long hair, neck and ears."""
    p = head.person
    image = cv2.resize(shot.background, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_CUBIC)
    dim = (0.35 * shot.diffuse + 0.85 * shot.ambient).astype(np.float32)
    width, centre = p.radii[0], head.surface.centre
    turn = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    circle = np.column_stack([np.cos(turn), np.sin(turn), np.zeros(32)])

    def fill(points: npt.ArrayLike, color: FloatArray) -> None:
        pixels = _fixed(_projected(points, rotation, to_crop))
        cv2.fillPoly(image, [pixels], color.tolist(), cv2.LINE_AA, _SHIFT)

    if p.hair_length > 0:
        reach = width * (1.12 + p.hair_thickness)
        low, high = p.hair_length, p.centre_y
        crown = circle * (reach, 1.05 * p.radii[1], 0) + centre
        fill(crown, p.hair * dim * 0.7)
        locks = [(-reach, high), (reach, high), (0.95 * reach, low), (-0.95 * reach, low)]
        fill([(x, y, centre[2]) for x, y in locks], p.hair * dim * 0.7)
    neck = [(-0.7 * width, 0.6), (0.7 * width, 0.6), (0.75 * width, 4.0), (-0.75 * width, 4.0)]
    fill([(x, y, centre[2] * 0.8) for x, y in neck], p.skin * dim * 0.75)
    for side in (-1, 1):
        ear = circle * (0.16, 0.32, 0) + (side * 0.99 * width, 0.22, centre[2] * 0.9)
        if p.hairline_sides < 0.35:
            fill(ear, p.skin * dim * 0.9)
            fill(circle * (0.07, 0.2, 0) + (side * 1.01 * width, 0.2, centre[2] * 0.9), p.skin * dim * 0.6)
    return np.asarray(image, np.float32)


def _put_on_glasses(
    image: FloatArray,
    head: Head,
    glasses: tuple[float, float, float, float],
    rotation: npt.NDArray[np.float64],
    to_crop: npt.NDArray[np.float64],
) -> None:
    p = head.person
    half_width, half_height, roundness, shade = glasses
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    # A superellipse, from nearly a rectangle to an ellipse.
    power = 0.45 + 0.55 * roundness
    rim = np.column_stack(
        [
            half_width * np.sign(np.cos(turn)) * np.abs(np.cos(turn)) ** power,
            half_height * np.sign(np.sin(turn)) * np.abs(np.sin(turn)) ** power,
            np.zeros(40),
        ]
    )
    color = (np.float32(shade) * p.hair).tolist()
    front = float(head.landmarks[0, 2]) + 0.16
    gap = max(p.eye_distance / 2, half_width + 0.06)
    lines = [rim + np.array((side * gap, 0.04, front)) for side in (-1, 1)]
    bridge = half_width - gap
    lines.append(np.array([(bridge, 0, front), (0, -0.05, front), (-bridge, 0, front)]))
    for side in (-1, 1):
        if side * rotation[2, 0] < -0.05:
            continue  # the temple is behind the face
        outer = side * (gap + half_width)
        lines.append(np.array([(outer, 0, front), (side * p.radii[0] * 1.02, 0, head.surface.centre[2])]))
    for number, line in enumerate(lines):
        pixels = _fixed(_projected(line, rotation, to_crop))
        cv2.polylines(image, [pixels], number < 2, color, 2 if shade < 0.25 else 1, cv2.LINE_AA, _SHIFT)


def _taken(image: FloatArray, shot: Shot) -> ImageArray:
    """What the camera makes of it."""
    mix = np.empty((3, 4), np.float32)
    mix[:, :3] = (1 - shot.saturation) * _LUMA + shot.saturation * np.eye(3)
    mix[:, :3] *= 255 * shot.contrast
    mix[:, 3] = 255 * 0.45 * (1 - shot.contrast)
    grey_levels: Any = cv2.transform(image, mix)
    if shot.blur > 0.2:
        grey_levels = cv2.GaussianBlur(grey_levels, (0, 0), shot.blur)
    noise = np.random.default_rng(shot.noise_seed).standard_normal(image.shape, np.float32)
    grey_levels += noise * np.float32(shot.noise)
    return np.asarray(np.minimum(np.maximum(grey_levels + 0.5, 0), 255), np.uint8)
