"""The shape of a rendered head: an ellipsoid that narrows to the chin, with bumps, met by parallel rays.

In units of its radii the head is the sphere of directions q. The skin map is that sphere in Lambert's
azimuthal equal-area projection, (u, v) = (qx, qy) * sqrt(2 / (1 + qz)): the front lies in its middle, the
sides at distance sqrt(2). The surface lies at radius 1 + bump(u, v).
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from pocketnet_fast.data.alignment import CROP_SIZE, TEMPLATE, similarity_transform

FloatArray = npt.NDArray[np.float32]

MAP_SIZE: Final = 208
_MAP_REACH: Final = 1.6  # u and v at the border of the map, 106 degrees from the front
_TEXELS: Final = MAP_SIZE / (2 * _MAP_REACH)

_RAY_STEPS: Final = 5


def _map_directions() -> tuple[FloatArray, FloatArray, FloatArray]:
    axis = (np.arange(MAP_SIZE, dtype=np.float32) + 0.5) / np.float32(_TEXELS) - np.float32(_MAP_REACH)
    u, v = np.meshgrid(axis, axis)
    # The corners of the map lie outside the sphere's image, whose border is its back.
    square = np.minimum(u * u + v * v, 3.99)
    scale = np.sqrt(1 - square / 4)
    return u * scale, v * scale, 1 - square / 2


# Direction of each texel.
MAP_QX, MAP_QY, MAP_QZ = _map_directions()


class View(NamedTuple):
    """Where the pixels of the crop meet the head.

    Attributes:
        map_x, map_y: float32, position in the skin map, in texels.
        depth: float32, towards the camera, in pixels.
        cover: float32, 0 to 1, how much of the pixel the head covers.
    """

    map_x: FloatArray
    map_y: FloatArray
    depth: FloatArray
    cover: FloatArray


class HeadSurface:
    """Shape and bumps of a head.

    Args:
        radii: Half width, height and depth.
        centre_y: y of the centre below the eyes.
        jaw: Share by which the width shrinks at the chin.

    Attributes:
        bump: float32, the skin map of heights, to be filled.
        centre: Head coordinates of the centre; between the eyes the smooth surface lies at z = 0.
    """

    def __init__(self, radii: tuple[float, float, float], centre_y: float, jaw: float) -> None:
        self.radii, self.jaw = radii, jaw
        self.bump: FloatArray = np.zeros((MAP_SIZE, MAP_SIZE), np.float32)
        front = radii[2] * float(np.sqrt(max(0.0, 1 - (centre_y / radii[1]) ** 2)))
        self.centre: FloatArray = np.array((0.0, centre_y, -front), np.float32)

    def half_width(self, qy: Any) -> Any:
        """Half the width of the head at a height."""
        low = np.maximum(qy, 0)
        return self.radii[0] * (1 - self.jaw * low * low)

    def map_point(self, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Texels, N x 2, of the points of the front with these head coordinates x and y, N x 2."""
        q = self._direction(points)
        return (q[:, :2] * np.sqrt(2 / (1 + q[:, 2:])) + _MAP_REACH) * _TEXELS - 0.5

    def point(self, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Head coordinates, N x 3, of the points of the front with about these x and y, N x 2."""
        q = self._direction(points)
        at = np.rint(self.map_point(points)).astype(int).clip(0, MAP_SIZE - 1)
        scale = 1 + self.bump[at[:, 1], at[:, 0]].astype(np.float64)
        size = np.column_stack([self.half_width(q[:, 1]), np.full((len(q), 2), self.radii[1:])])
        return q * size * scale[:, None] + self.centre

    def _direction(self, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        x, y = np.asarray(points, np.float64).T
        q = np.empty((len(x), 3))
        q[:, 1] = qy = np.minimum(np.maximum((y - self.centre[1]) / self.radii[1], -1), 1)
        side = np.sqrt(1 - qy * qy)
        q[:, 0] = qx = np.minimum(np.maximum(x / self.half_width(qy), -side), side)
        q[:, 2] = np.sqrt(np.maximum(side * side - qx * qx, 0))
        return q

    def meet(self, rotation: npt.NDArray[np.float64], to_crop: npt.NDArray[np.float64]) -> View:
        """Follow the ray of every pixel to the head.

        Args:
            rotation: 3 x 3, from head to view coordinates.
            to_crop: 2 x 3, the similarity from the view's x and y to pixels.
        """
        # With a = to_crop as a complex factor, x + iy = (pixel - b) / a.
        inverse = np.linalg.inv(to_crop[:, :2])
        offset = -inverse @ to_crop[:, 2]
        # A point at depth s of a pixel's ray: rotation^T (x, y, s) = start + s * along.
        from_pixel = rotation.T[:, :2] @ np.column_stack([inverse, offset])
        from_pixel[:, 2] -= self.centre
        start = [(_PIXELS @ row).reshape(CROP_SIZE, CROP_SIZE) for row in from_pixel.astype(np.float32)]
        along = rotation.T[:, 2].astype(np.float32)

        by, bz = np.float32(1 / self.radii[1]), np.float32(1 / self.radii[2])
        sy, sz = start[1] * by, start[2] * bz
        ay, az = along[1] * by, along[2] * bz
        cross_yz, square_yz, start_yz = sy * ay + sz * az, ay * ay + az * az, sy * sy + sz * sz
        bx: Any = np.float32(1 / self.radii[0])
        bump: Any = np.float32(0)
        for step in range(_RAY_STEPS):
            # |q(s)|^2 = square s^2 + 2 cross s + constant = (1 + bump)^2, the root nearer to the camera.
            sx, ax = start[0] * bx, along[0] * bx
            square = square_yz + ax * ax
            cross = cross_yz + sx * ax
            inside = (1 + bump) ** 2 - (start_yz + sx * sx) + cross * cross / square
            depth = (np.sqrt(np.maximum(inside, 0) * square) - cross) / square
            qx, qy, qz = sx + depth * ax, sy + depth * ay, sz + depth * az
            radius = np.sqrt(qx * qx + qy * qy + qz * qz)
            scale = (_TEXELS * 2**0.5) / np.sqrt(radius * (radius + qz) + 1e-6)
            map_x = qx * scale + (MAP_SIZE / 2 - 0.5)
            map_y = qy * scale + (MAP_SIZE / 2 - 0.5)
            if step < _RAY_STEPS - 1:
                here = cv2.remap(self.bump, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
                # At an outline that is steep, the plain iteration goes back and forth between two places.
                bump = here if step == 0 else 0.5 * (bump + here)
                bx = 1 / self.half_width(qy)
        pixels = float(np.hypot(*to_crop[0, :2]))
        # |q|^2 changes by 2 / (radius in pixels) from one pixel to the next.
        cover = np.minimum(np.maximum(inside * (0.5 * self.radii[0] * pixels) + 0.5, 0), 1)
        return View(map_x, map_y, depth * np.float32(pixels), cover)


def _pixels() -> FloatArray:
    y, x = np.mgrid[:CROP_SIZE, :CROP_SIZE].reshape(2, -1)
    return np.column_stack([x, y, np.ones_like(x)]).astype(np.float32)


_PIXELS = _pixels()


def rotation_matrix(yaw: float, pitch: float, roll: float) -> npt.NDArray[np.float64]:
    """Rotation from head to view coordinates: the yaw about y, then the pitch about x, then the roll."""
    (cy, cp, cr), (sy, sp, sr) = np.cos((yaw, pitch, roll)), np.sin((yaw, pitch, roll))
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return np.asarray(about_z @ about_x @ about_y)


def crop_transform(landmarks: npt.NDArray[np.float64], error: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Similarity, 2 x 3, that brings landmarks seen with an error to the alignment template.

    Args:
        landmarks: 5 x 2, in view coordinates.
        error: 5 x 2, in pixels of the crop.
    """
    exact = similarity_transform(landmarks, TEMPLATE)
    return similarity_transform(landmarks + error @ np.linalg.inv(exact[:, :2]).T, TEMPLATE)
