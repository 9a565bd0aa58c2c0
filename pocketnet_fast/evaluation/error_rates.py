"""Receiver operating characteristics: true accepts against false accepts over all thresholds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pocketnet_fast.evaluation.verification import Flags, Floats


@dataclass(frozen=True)
class Roc:
    """Rates by falling threshold: a pair is accepted when its score reaches the threshold.

    Attributes:
        threshold: The distinct scores from the highest to the lowest, after infinity, which accepts nothing.
        far: Part of the pairs of two persons that is accepted, 0 to 1.
        tar: Part of the pairs of one person that is accepted, 0 to 1.
    """

    threshold: Floats
    far: Floats
    tar: Floats


@dataclass(frozen=True)
class OperatingPoint:
    """The most tolerant threshold that keeps to a false accept rate.

    Attributes:
        far: The rate asked for.
        threshold: The score from which a pair is accepted; None if none is.
        measured_far: Part of the pairs of two persons accepted; at most ``far``.
        false_accepts: Their number. 0 says that there are too few pairs for the rate.
        tar: Part of the pairs of one person accepted.
    """

    far: float
    threshold: float | None
    measured_far: float
    false_accepts: int
    tar: float


def roc(score: Floats, same: Flags) -> Roc:
    """Return the rates at every threshold that tells pairs apart.

    Args:
        score: N: the higher, the more alike.
        same: N: whether it is one person. A rate of a kind without pairs is 0.
    """
    order = np.argsort(-score, kind="stable")
    ranked, genuine = score[order], same[order]
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1) if len(ranked) else np.empty(0, int)
    true, false = np.cumsum(genuine)[last], np.cumsum(~genuine)[last]
    return Roc(
        threshold=np.concatenate([[np.inf], ranked[last]]),
        far=np.concatenate([[0.0], false / max(int(np.count_nonzero(~same)), 1)]),
        tar=np.concatenate([[0.0], true / max(int(np.count_nonzero(same)), 1)]),
    )


def operating_point(curve: Roc, impostors: int, far: float) -> OperatingPoint:
    """Find the most tolerant threshold at which the false accept rate is at most ``far``.

    Args:
        curve: The rates.
        impostors: Number of pairs of two persons.
        far: 0 to 1.
    """
    # A little more than far, as the rates are rounded quotients.
    place = int(np.searchsorted(curve.far, far * (1 + 1e-12), side="right")) - 1
    threshold = float(curve.threshold[place])
    return OperatingPoint(
        far=far,
        threshold=threshold if np.isfinite(threshold) else None,
        measured_far=float(curve.far[place]),
        false_accepts=round(float(curve.far[place]) * impostors),
        tar=float(curve.tar[place]),
    )
