"""The receiver operating characteristic at every threshold that tells pairs apart."""

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


def area_under(curve: Roc) -> float:
    """The area under a ROC, from 0 to 1: the chance that one person scores higher than two, ties half."""
    widths = np.diff(curve.far)
    return float(np.sum(widths * (curve.tar[1:] + curve.tar[:-1]) / 2))


def equal_error_rate(curve: Roc) -> float:
    """The rate at which as many pairs of two persons are accepted as of one are refused, interpolated."""
    gap = curve.far - (1 - curve.tar)
    if gap[-1] < 0:
        return float((curve.far[-1] + 1 - curve.tar[-1]) / 2)
    after = int(np.argmax(gap >= 0))
    if after == 0:
        return float(curve.far[0])
    part = -gap[after - 1] / (gap[after] - gap[after - 1])
    return float(curve.far[after - 1] + part * (curve.far[after] - curve.far[after - 1]))
