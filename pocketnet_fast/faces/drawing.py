"""Pictures of what was found in photos: of one, and of a comparison with crops and result."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pocketnet_fast.data.alignment import TEMPLATE
from pocketnet_fast.faces.face import Face
from pocketnet_fast.faces.sources import EmbeddedFace

ImageArray = npt.NDArray[np.uint8]

_PHOTO: Final = 400
_CROP: Final = 224
_GAP: Final = 12
_PAPER: Final = (245, 245, 245)
_INK: Final = (40, 40, 40)
_YES: Final = (20, 140, 60)
_NO: Final = (190, 50, 40)
_OTHER: Final = (130, 130, 130)


def draw_comparison(
    photos: tuple[ImageArray, ImageArray],
    faces: tuple[EmbeddedFace, EmbeddedFace],
    lines: list[str],
    same: bool,
) -> ImageArray:
    """Draw two photos side by side, their crops below, and the result.

    The chosen face has a box in the colour of the decision and its landmarks; other faces are grey.

    Args:
        photos: H x W x 3 uint8, RGB, as read.
        faces: what was found in them.
        lines: text; the first line, the decision, is coloured.
        same: whether the decision was "same person".

    Returns:
        H x W x 3 uint8, RGB.
    """
    colour = _YES if same else _NO
    columns = [_column(photo, face, colour) for photo, face in zip(photos, faces, strict=True)]
    height = max(column.shape[0] for column in columns)
    gap = _blank(height, _GAP)
    padded = [np.vstack([column, _blank(height - column.shape[0], column.shape[1])]) for column in columns]
    body = np.hstack([gap, padded[0], gap, padded[1], gap])
    canvas = np.vstack([body, _blank(34 * len(lines) + _GAP, body.shape[1])])
    for index, line in enumerate(lines):
        ink = _INK if index else colour
        _write(canvas, line, (_GAP, height + 26 + 34 * index), 0.8, ink)
    return canvas


def draw_faces(photo: ImageArray, faces: list[Face]) -> ImageArray:
    """Draw the boxes, landmarks and scores of faces into a photo; doubtful faces are grey.

    Args:
        photo: H x W x 3 uint8, RGB, which is not changed.
        faces: What was found in it.

    Returns:
        A picture of the same size.
    """
    import cv2

    picture = photo.copy()
    # Thick enough to be seen when a large photo is shown small.
    thickness = max(1, round(max(photo.shape) / 600))
    for face in reversed(faces):
        ink = _YES if face.doubt is None else _OTHER
        left, top, width, height = (round(value) for value in face.box)
        cv2.rectangle(picture, (left, top), (left + width, top + height), ink, thickness, cv2.LINE_AA)
        _dots(picture, face.landmarks, ink, thickness + 1)
        _write(picture, f"{face.score:.2f}", (left, top - 4 * thickness), 0.5 * thickness, ink)
    return picture


def _column(photo: ImageArray, face: EmbeddedFace, colour: tuple[int, int, int]) -> ImageArray:
    import cv2

    scale = _PHOTO / photo.shape[1]
    scale = min(scale, 1.5 * _PHOTO / photo.shape[0])
    size = (max(1, round(photo.shape[1] * scale)), max(1, round(photo.shape[0] * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    scaled = np.asarray(cv2.resize(photo, size, interpolation=how), dtype=np.uint8)
    for index, found in reversed(list(enumerate(face.faces))):
        ink = _OTHER if index else colour
        left, top, width, height = (round(value * scale) for value in found.box)
        cv2.rectangle(scaled, (left, top), (left + width, top + height), ink, 1 if index else 2, cv2.LINE_AA)
        if index == 0:
            _dots(scaled, found.landmarks * scale, colour)
            _write(scaled, f"{found.score:.2f}", (left, top - 6), 0.5, ink)

    crop = np.asarray(cv2.resize(face.crop, (_CROP, _CROP)), dtype=np.uint8)
    # Where the template puts the landmarks: an alignment that went wrong shows at once.
    _dots(crop, (TEMPLATE + 0.5) * (_CROP / face.crop.shape[0]) - 0.5, colour)
    column = _blank(_GAP + size[1] + _GAP + _CROP + _GAP, _PHOTO)
    start = (_PHOTO - size[0]) // 2
    column[_GAP : _GAP + size[1], start : start + size[0]] = scaled
    start = (_PHOTO - _CROP) // 2
    column[-_GAP - _CROP : -_GAP, start : start + _CROP] = crop
    return column


def _blank(height: int, width: int) -> ImageArray:
    return np.full((height, width, 3), _PAPER, np.uint8)


def _dots(image: ImageArray, points: npt.NDArray[Any], colour: tuple[int, int, int], radius: int = 3) -> None:
    import cv2

    for x, y in np.rint(points).astype(int).tolist():
        cv2.circle(image, (x, y), radius + 1, (255, 255, 255), -1, cv2.LINE_AA)
        cv2.circle(image, (x, y), radius, colour, -1, cv2.LINE_AA)


def _write(
    image: ImageArray, text: str, origin: tuple[int, int], size: float, ink: tuple[int, int, int]
) -> None:
    import cv2

    cv2.putText(image, text, origin, cv2.FONT_HERSHEY_SIMPLEX, size, ink, 1, cv2.LINE_AA)
