"""Which way up a photo is, and the faces in it seen upright.

A detector that was trained on upright faces finds turned ones, too, with landmarks of an upright face in the
wrong places; aligned by them, different people look the same to a network. Its score tells: of 96 photos
turned four ways the upright one had the best score each time, at least 0.919, and no turned one more than
0.916. So a face of a high score settles the matter at the first look; otherwise the photo is looked at in its
quarter turns and, if need be, between them. A face that is seen tilted is looked at again along its tilt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pocketnet_fast.faces.face import Face

ImageArray = npt.NDArray[np.uint8]
Matrix = npt.NDArray[np.float64]
Detect = Callable[[ImageArray], list[Face]]
Look = Callable[[ImageArray, float], list[Face]]
"""Finds the faces in an image that is scaled by a factor first, in the image's coordinates."""

# Between the best score of a photo the wrong way up and the least of one the right way up.
_CONVINCING: Final = 0.918
# After looking at the quarter turns, a lower score that is far above the others' is enough.
_LIKELY: Final = 0.86
_FAR_ABOVE: Final = 0.03
_QUARTERS: Final = (90, 180, 270)
_DIAGONALS: Final = (45, 135, 225, 315)
# Beyond it, landmarks show less of a tilt than there is: a face tilted by 30 degrees may seem tilted by 16.
_TILTED: Final = 12.0
_LOOKS_ALONG_TILT: Final = 2
# The size at which a face is looked at again, and how far it is enlarged for that at most.
SECOND_LOOK: Final = 224.0
MAX_UPSCALING: Final = 4.0
_AROUND: Final = 1.8
_SAME_PLACE: Final = 0.5
# Two ways up whose scores lie closer than this are not told apart: the least distance on photos was 0.031.
_CLEAR: Final = 0.015
_OTHER_WAY: Final = 60.0


def upright_faces(image: ImageArray, found: list[Face], detect: Detect, look: Look) -> list[Face]:
    """Find the faces of a photo whichever way up it is.

    Args:
        image: H x W x 3 uint8, RGB.
        found: The faces of the image as it is given.
        detect: Finds the faces of a whole image.
        look: Finds those of a part of one.

    Returns:
        The faces with box and landmarks in the photo as given, and a ``doubt`` where two ways up are as
        likely; in no particular order.
    """
    ways = [[_along_tilt(image, face, look) for face in found]]
    if _best(ways) < _CONVINCING:
        ways += [_seen_tilted(image, tilt, detect, look) for tilt in _QUARTERS]
        scores = sorted(_best([faces]) for faces in ways)
        if scores[-1] < _LIKELY or scores[-1] < scores[-2] + _FAR_ABOVE:
            ways += [_seen_tilted(image, tilt, detect, look) for tilt in _DIAGONALS]
    # Of equally good ways the first, the photo as given before all others.
    chosen = max(ways, key=lambda faces: _best([faces]))
    return [_compared(face, [other for faces in ways for other in faces]) for face in chosen]


def _best(ways: list[list[Face]]) -> float:
    return max((face.score for faces in ways for face in faces), default=0.0)


def _seen_tilted(image: ImageArray, tilt: int, detect: Detect, look: Look) -> list[Face]:
    """The faces of an image whose clockwise tilt is taken away, in its own coordinates."""
    straight, to_straight = straightened(image, tilt)
    back = _inverse(to_straight)
    return [_moved(_along_tilt(straight, face, look), back) for face in detect(straight)]


def straightened(image: ImageArray, tilt: int) -> tuple[ImageArray, Matrix]:
    """Take a clockwise tilt away from an image.

    Args:
        image: H x W x 3 uint8.
        tilt: In degrees; quarter turns move pixels as they are, other tilts interpolate them.

    Returns:
        The whole image, in a larger one where it needs to be, black around it; and the 2 x 3 matrix from
        pixels of the image to those of the result.
    """
    import cv2

    height, width = image.shape[:2]
    matrix: Any = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), tilt, 1.0)
    if tilt % 90 == 0:
        result = np.ascontiguousarray(np.rot90(image, tilt // 90))
        # Rounded, as the coordinates of the middle are halves.
        matrix[:, :2], matrix[:, 2] = np.rint(matrix[:, :2]), np.rint(2 * matrix[:, 2]) / 2
        matrix[:, 2] += (np.array(result.shape[1::-1]) - (width, height)) / 2
        return result, np.asarray(matrix)
    across, along = np.abs(matrix[0, :2])
    wide, high = round(width * across + height * along), round(width * along + height * across)
    matrix[:, 2] += ((wide - width) / 2, (high - height) / 2)
    result = np.asarray(cv2.warpAffine(image, matrix, (wide, high), flags=cv2.INTER_LINEAR), np.uint8)
    return result, np.asarray(matrix)


def _along_tilt(image: ImageArray, face: Face, look: Look) -> Face:
    """The face as the detector sees it when its tilt is taken away, if it then is surer of it."""
    for _ in range(_LOOKS_ALONG_TILT):
        if abs(face.tilt) <= _TILTED:
            break
        part, to_part = _straightened_face(image, face)
        seen = [_moved(found, _inverse(to_part)) for found in look(part, 1.0)]
        near = [found for found in seen if _distance(found, face) < _SAME_PLACE]
        better = max(near, key=lambda found: found.score, default=face)
        if better.score <= face.score:
            break
        face = better
    return face


def _straightened_face(image: ImageArray, face: Face) -> tuple[ImageArray, Matrix]:
    """The surroundings of a face without its tilt, and the 2x3 matrix from the image to them."""
    import cv2

    scale = min(SECOND_LOOK / face.size, MAX_UPSCALING)
    side = round(face.size * scale * _AROUND)
    x, y = face.landmarks.mean(0).tolist()
    matrix: Any = cv2.getRotationMatrix2D((x, y), face.tilt, scale)
    matrix[:, 2] += (side - 1) / 2 - np.array((x, y))
    # Bilinear sampling of every second pixel or fewer would alias.
    smooth = image if scale > 0.6 else cv2.GaussianBlur(image, (0, 0), 0.4 / scale)
    part = cv2.warpAffine(smooth, matrix, (side, side), flags=cv2.INTER_LINEAR)
    return np.asarray(part, np.uint8), np.asarray(matrix, np.float64)


def _inverse(matrix: Matrix) -> Matrix:
    return np.asarray(np.linalg.inv(np.vstack([matrix, (0, 0, 1)]))[:2])


def _moved(face: Face, matrix: Matrix) -> Face:
    """A face under a similarity; the box keeps its centre and its size, upright in its new place."""
    scale = float(np.hypot(*matrix[:, 0]))
    left, top, width, height = face.box
    x, y = matrix[:, :2] @ (left + width / 2, top + height / 2) + matrix[:, 2]
    width, height = width * scale, height * scale
    if abs(matrix[0, 1]) > abs(matrix[0, 0]):
        width, height = height, width
    landmarks = face.landmarks @ matrix[:, :2].T + matrix[:, 2]
    box = (float(x) - width / 2, float(y) - height / 2, width, height)
    return replace(face, box=box, landmarks=landmarks)


def _distance(one: Face, other: Face) -> float:
    """Between the middles of the landmarks, in sizes of the first face."""
    return float(np.linalg.norm(one.landmarks.mean(0) - other.landmarks.mean(0))) / one.size


def _compared(face: Face, others: list[Face]) -> Face:
    """Mark a face that is about as likely another way up."""
    for rival in others:
        angle = abs((rival.tilt - face.tilt + 180) % 360 - 180)
        if _distance(face, rival) < _SAME_PLACE and angle > _OTHER_WAY and rival.score > face.score - _CLEAR:
            scores = f"scores {face.score:.3f} and {rival.score:.3f}"
            return replace(face, doubt=f"it is unclear which way up it is ({scores})")
    return face
