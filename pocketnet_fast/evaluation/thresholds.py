"""Choosing a threshold for a false accept rate, on the safe side.

Among n pairs of two persons a rate FAR allows ``k = floor(FAR * n)`` to be accepted. The threshold is the
k-th highest of their cosines: the strictest of all thresholds that accept these k. If more than k pairs reach
it, because cosines are equal, the next higher cosine is taken. A new draw exceeds the k-th highest of n with
probability k / (n + 1), so that new pairs of the same kind are accepted at a rate of at most FAR on average.

On several data sets the strictest of their own thresholds is taken, so that the rate holds on each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final

import numpy as np
import numpy.typing as npt

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.evaluation.bootstrap import RateIntervals
from pocketnet_fast.evaluation.comparisons import Comparisons, Rows
from pocketnet_fast.evaluation.rates import acceptable
from pocketnet_fast.evaluation.verification import Floats, Indices
from pocketnet_fast.models.calibration import CalibratedPoint, MeasuredRates, far_text

COLLAPSED: Final = 0.99
"""Mean cosine of two images beyond which no threshold tells people apart; a trained network's is small."""


@dataclass(frozen=True, eq=False)
class EmbeddedComparisons:
    """A data set's comparisons with the embeddings of its images.

    Attributes:
        comparisons: Which images are compared.
        rows: N,D, of length 1.
    """

    comparisons: Comparisons
    rows: Rows


def allowed_false_accepts(name: str, impostors: int, far: float) -> int:
    """Return how many of ``impostors`` pairs of two persons a false accept rate allows to be accepted.

    Args:
        name: How the error calls the data set.
        impostors: Number of pairs.
        far: The rate, above 0, below 1.

    Raises:
        PocketNetError: It allows none, so that the pairs say nothing about the rate.
    """
    allowed = acceptable(impostors, far)
    if allowed < 1:
        least = ceil(1 / far * (1 - 1e-12))
        answers = (
            f"these answer down to FAR {_rounded_up(1 / impostors)}" if impostors > 1 else "they answer none"
        )
        raise PocketNetError(
            f"{name}: {impostors:,} pairs of two persons say nothing about a false accept rate of "
            f"{far_text(far)}; at least {least:,} are needed, {answers}"
        )
    return allowed


def check_distinct(embeddings: npt.NDArray[np.floating]) -> None:
    """Refuse the embeddings of a collapsed network, which are nearly the same for every image.

    Args:
        embeddings: N,D, rows of length 1.

    Raises:
        PocketNetError: Their mean cosine is beyond ``COLLAPSED``.
    """
    count = len(embeddings)
    if count < 2:
        return
    total = embeddings.sum(axis=0, dtype=np.float64)
    mean = (float(total @ total) - count) / (count * (count - 1))
    if mean > COLLAPSED:
        raise PocketNetError(
            f"the network gives nearly the same embedding for everyone: two images have a mean cosine of "
            f"{mean:.4f}; no threshold tells people apart, and nothing was written"
        )


def calibrated_points(
    sets: Sequence[EmbeddedComparisons], fars: Sequence[float]
) -> tuple[CalibratedPoint, ...]:
    """Choose the threshold of each false accept rate, and measure what it does on each data set.

    Args:
        sets: At least one.
        fars: Rates above 0 and below 1, in any order, none twice.

    Returns:
        One point a rate, by falling rate.

    Raises:
        PocketNetError: A data set has fewer than ``1 / far`` pairs of two persons, or more than ``far`` of
            them are as alike as two pictures can be.

    Examples:
        >>> for point in calibrated_points([EmbeddedComparisons(comparisons, embeddings)], [1e-3, 1e-4]):
        ...     print(point.far, point.threshold)
    """
    fars = sorted(fars, reverse=True)
    tops = []
    for one in sets:
        name, impostors = one.comparisons.name, one.comparisons.impostor_pairs
        allowed = [allowed_false_accepts(name, impostors, far) for far in fars]
        # One more than is allowed, which may equal the last.
        tops.append(_Top(name, allowed, *one.comparisons.highest(one.rows, allowed[0] + 1).falling()))
    thresholds = np.max([top.thresholds() for top in tops], axis=0).tolist()
    measured = [_measured(one, top, thresholds) for one, top in zip(sets, tops, strict=True)]
    return tuple(
        CalibratedPoint(far, threshold, tuple(rates[index] for rates in measured))
        for index, (far, threshold) in enumerate(zip(fars, thresholds, strict=True))
    )


@dataclass(frozen=True, eq=False)
class _Top:
    """The most similar pairs of two persons of a data set, falling, and how many each rate allows."""

    name: str
    allowed: list[int]
    cosine: Floats
    pairs: Indices

    def thresholds(self) -> list[float]:
        """The strictest threshold of each rate: it accepts as many as are allowed, fewer if some tie."""
        return [self._threshold(allowed) for allowed in self.allowed]

    def _threshold(self, allowed: int) -> float:
        chosen = self.cosine[allowed - 1]
        if len(self.cosine) > allowed and self.cosine[allowed] == chosen:
            higher = self.cosine[self.cosine > chosen]
            chosen = higher[-1] if len(higher) else np.nextafter(chosen, np.inf)
        if chosen > 1:
            raise PocketNetError(
                f"{self.name}: more pairs of two persons than the rate allows have a cosine of 1: are they "
                "marked wrongly?"
            )
        return float(chosen)


def _measured(one: EmbeddedComparisons, top: _Top, thresholds: list[float]) -> list[MeasuredRates]:
    comparisons, impostors = one.comparisons, one.comparisons.impostor_pairs
    false_accepts = [int(np.count_nonzero(top.cosine >= threshold)) for threshold in thresholds]
    genuine = comparisons.genuine_pairs()
    accepted = comparisons.accepted_genuine(one.rows, thresholds)
    intervals = RateIntervals(comparisons, [top.pairs[:count] for count in false_accepts], accepted)
    return [
        MeasuredRates(
            dataset=comparisons.name,
            impostor_pairs=impostors,
            false_accepts=count,
            far=count / impostors,
            far_low=far[0],
            far_high=far[1],
            genuine_pairs=int(genuine.sum()),
            true_accepts=int(true.sum()),
            tar=int(true.sum()) / int(genuine.sum()) if genuine.any() else None,
            tar_low=None if tar is None else tar[0],
            tar_high=None if tar is None else tar[1],
        )
        for count, true, far, tar in zip(false_accepts, accepted, intervals.far, intervals.tar, strict=True)
    ]


def _rounded_up(rate: float) -> str:
    """A rate with two digits that is not below it."""
    unit = 10.0 ** (np.floor(np.log10(rate)) - 1)
    return far_text(float(f"{ceil(rate / unit * (1 - 1e-12)) * unit:.2g}"))
