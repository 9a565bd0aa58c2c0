"""Rates at a false accept rate, by counting: no interpolation between thresholds, and ties never help."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from pocketnet_fast.errors import PocketNetError

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True)
class OperatingPoint:
    """The lowest threshold that keeps within a false accept rate, and what it accepts.

    Attributes:
        far: The rate that was asked for.
        tar: Part of the genuine scores above the threshold.
        threshold: Scores above it, not those equal to it, are accepted: the highest impostor score that has
            to be rejected. -inf if every impostor may be accepted.
        accepted: How many impostors may be accepted, ``far`` times their number, rounded down. 0 says that
            there are too few of them to measure this rate; the threshold is then the highest impostor score.
    """

    far: float
    tar: float
    threshold: float
    accepted: int

    def as_dict(self) -> dict[str, float | int | None]:
        """The attributes as JSON knows them; a threshold of -inf is None."""
        return asdict(self) | {"threshold": self.threshold if math.isfinite(self.threshold) else None}


def operating_point(genuine: Scores, impostors: Scores, count: int, far: float) -> OperatingPoint:
    """Find the true accept rate at a false accept rate.

    With k = floor(far * count), impostor number k + 1 in falling order has to be rejected, so what is
    accepted are the scores strictly above it. Where it is tied with higher ones, they are rejected too: the
    false accept rate reached is at most ``far``.

    Args:
        genuine: Scores of the same person, in any order.
        impostors: The highest scores of different persons, falling: all of them, or at least k + 1.
        count: How many there are.
        far: The false accept rate, 0 to 1.

    Raises:
        PocketNetError: There are no genuine scores or no impostors, or ``far`` is out of range.

    Examples:
        >>> operating_point(genuine, np.sort(impostors)[::-1], len(impostors), far=1e-3).tar
    """
    if not 0 <= far <= 1:
        raise PocketNetError(f"a false accept rate lies between 0 and 1, not at {far:g}")
    if len(genuine) == 0 or count == 0:
        raise PocketNetError(f"rates of {len(genuine)} genuine and {count} impostor scores are undefined")
    accepted = acceptable(count, far)
    threshold = float(impostors[accepted]) if accepted < count else -math.inf
    tar = int(np.count_nonzero(genuine > threshold)) / len(genuine)
    return OperatingPoint(far, tar, threshold, accepted)


def acceptable(count: int, far: float) -> int:
    """``far`` times ``count``, rounded down, where a product such as 0.29 * 100 is not 28.999..."""
    return min(math.floor(far * count * (1 + 1e-12)), count)


def roc_points(
    genuine: Scores, impostors: Scores, points: int = 512
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """True accept rates at false accept rates from one impostor to all, evenly spaced on a logarithmic scale.

    Args:
        genuine: Scores of the same person.
        impostors: All scores of different persons, falling.
        points: How many rates at most.

    Returns:
        The false and the true accept rates, rising.
    """
    count = len(impostors)
    allowed = np.unique(np.geomspace(1, count, points).astype(np.int64))
    limits = np.append(impostors, np.float32(-np.inf))[allowed]
    ordered = np.sort(genuine)
    above = len(ordered) - np.searchsorted(ordered, limits, side="right")
    return allowed / count, above / len(ordered)
