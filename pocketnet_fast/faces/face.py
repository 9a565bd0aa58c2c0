"""A face that was found in a photo, and what makes it doubtful."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

# In units of the box's shorter side and of the distance from the eyes to the mouth; wide enough for profiles.
_OUTSIDE: Final = 0.35
_EYES_TO_MOUTH: Final = (0.2, 1.1)
_NOSE: Final = (-0.3, 1.3)
_CROSSED_EYES: Final = -0.35


@dataclass(frozen=True, eq=False)
class Face:
    """One detected face, in pixels of the image it was found in (centre of the first pixel: 0, 0).

    Attributes:
        box: left, top, width, height; may reach over the border of the image.
        landmarks: 5 x 2 float64 (x, y), in the order of ``alignment.TEMPLATE``.
        score: the detector's confidence, 0..1.
        doubt: why this may be no face, or none whose landmarks can be relied on; else None.
        crop: 112 x 112 x 3 uint8, RGB, aligned; None if it was only looked for, or is doubtful.
        embedding: D float32 of length 1; None if it was only looked for, or is doubtful.
    """

    box: tuple[float, float, float, float]
    landmarks: npt.NDArray[np.float64]
    score: float
    doubt: str | None = None
    crop: npt.NDArray[np.uint8] | None = None
    embedding: npt.NDArray[np.float32] | None = None

    @property
    def size(self) -> float:
        """The shorter side of the box."""
        return min(self.box[2], self.box[3])

    @property
    def prominence(self) -> float:
        """Area of the box times score: what faces are ordered by."""
        return self.box[2] * self.box[3] * self.score

    @property
    def tilt(self) -> float:
        """Clockwise degrees, -180 to 180, from upright in the photo as given to the face: eyes to mouth."""
        down = self.landmarks[3:].mean(0) - self.landmarks[:2].mean(0)
        return float(np.degrees(np.arctan2(-down[0], down[1])))

    @property
    def turn(self) -> int:
        """0, 90, 180 or 270: clockwise degrees by which the photo as given must be turned to be upright."""
        return round(-self.tilt / 90) % 4 * 90

    def moved(self, x: float, y: float) -> Face:
        """Return the face in an image that has ``x`` more columns on the left and ``y`` more rows above."""
        left, top, width, height = self.box
        return replace(
            self, box=(left + x, top + y, width, height), landmarks=self.landmarks + np.array((x, y))
        )


def examined(face: Face) -> Face:
    """Return the face, with a ``doubt`` if its landmarks are where no face can have them.

    Profiles have both eyes nearly in one place and pass; an eye on the wrong side, a nose above the eyes or
    landmarks far outside the box do not.
    """
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
    if not np.isfinite(points).all() or outside > _OUTSIDE * face.size:
        return "they lie outside its box"
    eyes, mouth = points[:2].mean(0), points[3:].mean(0)
    down = mouth - eyes
    length = float(np.linalg.norm(down))
    if not _EYES_TO_MOUTH[0] <= length / face.size <= _EYES_TO_MOUTH[1]:
        return "eyes and mouth are too near or too far"
    down /= length
    across = np.array((down[1], -down[0]))
    if (points[1] - points[0]) @ across < _CROSSED_EYES * length:
        return "the eyes are on each other's side"
    if not _NOSE[0] <= (points[2] - eyes) @ down / length <= _NOSE[1]:
        return "the nose is not between eyes and mouth"
    return None
