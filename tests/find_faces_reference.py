"""``find_faces`` in Python over OpenCV's resampling, to test the operator against.

The faces of a photo whatever its size and whichever way up it is; ``csrc/faces/detector.h`` says why each
step is taken. Photos are turned before they are scaled here, and after it there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pocketnet_fast.faces import Face
from pocketnet_fast.ops.detect_faces import detect_faces

ImageArray = npt.NDArray[np.uint8]
Matrix = npt.NDArray[np.float64]
Detect = Callable[[ImageArray], list[Face]]
Look = Callable[[ImageArray, float], list[Face]]

FIRST_SIDES = (256, 640)
OTHER_SIDES = (640, 1920, 256)
WELL_SEEN = (160.0, 350.0)
MARGIN = 0.1
CONVINCING = 0.918
LIKELY = 0.86
FAR_ABOVE = 0.03
QUARTERS = (90, 180, 270)
DIAGONALS = (45, 135, 225, 315)
TILTED = 12.0
LOOKS_ALONG_TILT = 2
SECOND_LOOK = 224.0
LARGEST_PART = 640
MAX_UPSCALING = 4.0
AROUND = 1.8
SAME_PLACE = 0.5
CLEAR = 0.015
OTHER_WAY = 60.0
OUTSIDE = 0.35
EYES_TO_MOUTH = (0.2, 1.1)
NOSE = (-0.3, 1.3)
CROSSED_EYES = -0.35


class Reference:
    """What ``FaceDetector`` does, on a lowered YuNet."""

    def __init__(self, program: Tensor, weights: Tensor, upright: bool = True) -> None:
        self.program, self.weights, self.upright = program, weights, upright

    def detect(self, image: ImageArray) -> list[Face]:
        faces = self.as_it_is(image)
        if self.upright:
            faces = upright_faces(image, faces, self.as_it_is, self.look)
        return sorted(map(examined, faces), key=lambda face: (face.doubt is not None, -face.prominence))

    def as_it_is(self, image: npt.NDArray[np.uint8]) -> list[Face]:
        for scale in _scales(max(image.shape[:2])):
            faces = [self.refined(image, face, scale) for face in self.look(image, scale, blend=False)]
            if faces:
                return faces
        return []

    def refined(self, image: npt.NDArray[np.uint8], face: Face, scale: float) -> Face:
        better = min(SECOND_LOOK / face.size, MAX_UPSCALING)
        if WELL_SEEN[0] <= face.size * scale <= WELL_SEEN[1] or better == scale:
            return face
        left, top, width, height = face.box
        x, y = max(0, int(left - width * MARGIN)), max(0, int(top - height * MARGIN))
        right = max(0, int(left + width * (1 + MARGIN)))
        bottom = max(0, int(top + height * (1 + MARGIN)))
        around = image[y : bottom + 1, x : right + 1]
        if around.size == 0 or round(max(around.shape[:2]) * better) > LARGEST_PART:
            return face
        seen = [_moved(found, np.array(((1, 0, x), (0, 1, y)))) for found in self.look(around, better)]
        best = max(seen, key=lambda found: _overlap(found, face), default=face)
        return best if _overlap(best, face) > 0.4 else face

    def look(self, image: npt.NDArray[np.uint8], scale: float, blend: bool = True) -> list[Face]:
        height, width = (max(1, round(side * scale)) for side in image.shape[:2])
        shrink = scale < 1
        scaled = cv2.resize(
            image, (width, height), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR
        )
        found = detect_faces(
            torch.from_numpy(scaled),
            self.program,
            self.weights,
            blend=blend,
        )
        # Pixel centres correspond: (x + 0.5) scales, not x.
        ratio = np.array((image.shape[1] / width, image.shape[0] / height))
        faces = []
        for row in found.double().numpy():
            left, top = ((row[0:2] + 0.5) * ratio - 0.5).tolist()
            wide, high = (row[2:4] * ratio).tolist()
            landmarks = (row[4:14].reshape(5, 2) + 0.5) * ratio - 0.5
            faces.append(Face((left, top, wide, high), landmarks, float(row[14])))
        return faces


def _scales(long_side: int) -> list[float]:
    least, most = FIRST_SIDES
    first = min(max(long_side, least), most) / long_side
    scales = [first, *(side / long_side for side in OTHER_SIDES)]
    # Only the side for small faces is worth enlarging for.
    limits = (MAX_UPSCALING, MAX_UPSCALING, 1.0, 1.0)
    return list(dict.fromkeys(min(pair) for pair in zip(scales, limits, strict=True)))


def _overlap(one: Face, other: Face) -> float:
    """Intersection over union of the boxes."""
    (x1, y1, w1, h1), (x2, y2, w2, h2) = one.box, other.box
    width = max(0.0, min(x1 + w1, x2 + w2) - max(x1, x2))
    height = max(0.0, min(y1 + h1, y2 + h2) - max(y1, y2))
    return width * height / (w1 * h1 + w2 * h2 - width * height)


def upright_faces(image: ImageArray, found: list[Face], detect: Detect, look: Look) -> list[Face]:
    ways = [[_along_tilt(image, face, look) for face in found]]
    if _best(ways) < CONVINCING:
        ways += [_seen_tilted(image, tilt, detect, look) for tilt in QUARTERS]
        scores = sorted(_best([faces]) for faces in ways)
        if scores[-1] < LIKELY or scores[-1] < scores[-2] + FAR_ABOVE:
            ways += [_seen_tilted(image, tilt, detect, look) for tilt in DIAGONALS]
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
    """The image without a clockwise tilt, in a larger one if need be; and the 2 x 3 matrix to it."""
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
    for _ in range(LOOKS_ALONG_TILT):
        if abs(face.tilt) <= TILTED:
            break
        part, to_part = _straightened_face(image, face)
        seen = [_moved(found, _inverse(to_part)) for found in look(part, 1.0)]
        near = [found for found in seen if _distance(found, face) < SAME_PLACE]
        better = max(near, key=lambda found: found.score, default=face)
        if better.score <= face.score:
            break
        face = better
    return face


def _straightened_face(image: ImageArray, face: Face) -> tuple[ImageArray, Matrix]:
    """The surroundings of a face without its tilt, and the 2x3 matrix from the image to them."""
    scale = min(SECOND_LOOK / face.size, MAX_UPSCALING)
    side = round(face.size * scale * AROUND)
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
        if _distance(face, rival) < SAME_PLACE and angle > OTHER_WAY and rival.score > face.score - CLEAR:
            scores = f"scores {face.score:.3f} and {rival.score:.3f}"
            return replace(face, doubt=f"it is unclear which way up it is ({scores})")
    return face


def examined(face: Face) -> Face:
    if face.doubt is not None:
        return face
    problem = _implausible(face)
    return face if problem is None else replace(face, doubt=f"its landmarks are not a face's: {problem}")


def _implausible(face: Face) -> str | None:
    points = face.landmarks
    left, top, width, height = face.box
    outside = max(
        (np.array((left, top)) - points).max(), (points - np.array((left + width, top + height))).max()
    )
    if not np.isfinite(points).all() or outside > OUTSIDE * face.size:
        return "they lie outside its box"
    eyes, mouth = points[:2].mean(0), points[3:].mean(0)
    down = mouth - eyes
    length = float(np.linalg.norm(down))
    if not EYES_TO_MOUTH[0] <= length / face.size <= EYES_TO_MOUTH[1]:
        return "eyes and mouth are too near or too far"
    down /= length
    across = np.array((down[1], -down[0]))
    if (points[1] - points[0]) @ across < CROSSED_EYES * length:
        return "the eyes are on each other's side"
    if not NOSE[0] <= (points[2] - eyes) @ down / length <= NOSE[1]:
        return "the nose is not between eyes and mouth"
    return None
