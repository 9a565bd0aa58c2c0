"""The options that every implementation of the margin softmax takes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pocketnet_fast.errors import PocketNetError


@dataclass(frozen=True)
class MarginOptions:
    """Scale and margins of the label's logit, ``scale * psi(theta)`` (ArcFace, arXiv 1801.07698, eq. 4).

    ``psi(theta) = cos(m1 * theta + m2) - m3`` for ``m1 * theta + m2 <= pi``. Beyond, it goes on falling: for
    ``m1 == 1`` as ``cos(theta) - m2 * sin(m2) - m3``, which is what published ArcFace and PocketNet training
    does; for other ``m1`` as ``(-1)^k cos(m1 * theta + m2) - 2k - m3`` with
    ``k = floor((m1 * theta + m2) / pi)``, as in SphereFace (arXiv 1704.08063, eq. 7).

    Attributes:
        scale: s, positive.
        m1: Multiplies the angle (SphereFace), at least 1.
        m2: Is added to the angle, in radians (ArcFace), from 0 to pi.
        m3: Is subtracted from the cosine (CosFace, arXiv 1801.09414, eq. 4), at least 0.
        easy_margin: Leave the label's cosine as it is where it is not positive.
    """

    scale: float = 64.0
    m1: float = 1.0
    m2: float = 0.5
    m3: float = 0.0
    easy_margin: bool = False

    def __post_init__(self) -> None:
        if not (0.0 < self.scale < math.inf):
            raise PocketNetError(f"scale must be positive and finite, got {self.scale}")
        if not (1.0 <= self.m1 < math.inf and 0.0 <= self.m2 <= math.pi and 0.0 <= self.m3 < math.inf):
            raise PocketNetError(
                "margins must be (m1 >= 1, 0 <= m2 <= pi, m3 >= 0), all finite, "
                f"got ({self.m1}, {self.m2}, {self.m3})"
            )
