"""A face that was found in a photo, and what makes it doubtful."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


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
        norm: the length that the embedding had; None where there is none.
        quality: how far decisions about it can be relied on, 0..1 (``faces.quality``); None if it was only
            looked for, or is doubtful.
    """

    box: tuple[float, float, float, float]
    landmarks: npt.NDArray[np.float64]
    score: float
    doubt: str | None = None
    crop: npt.NDArray[np.uint8] | None = None
    embedding: npt.NDArray[np.float32] | None = None
    norm: float | None = None
    quality: float | None = None

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

    def as_dict(self) -> dict[str, Any]:
        """What JSON says of a face that was found; its embedding stands elsewhere."""
        return {
            "box": self.box,
            "landmarks": self.landmarks.tolist(),
            "score": self.score,
            "turn": self.turn,
            "doubt": self.doubt,
            "quality": self.quality,
        }
