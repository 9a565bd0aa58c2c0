"""Confidence intervals of rates over pairs that share people.

Pairs are not independent: one face that looks like many others makes many false accepts. So not pairs but
people are drawn again: each of 1,000 replicates gives every person a weight of its own from a Poisson
distribution of mean 1; a pair of two persons weighs the product of their weights, a pair of one person that
person's (Owen and Eckles, Bootstrapping data arrays of arbitrary order, Annals of Applied Statistics 6(3),
2012). The interval lies between the percentiles 2.5 and 97.5 of the replicates' rates.

Where no pair is accepted, or every one, replicates do not differ. The end that they cannot tell is then the
exact one of n independent pairs: ``1 - 0.025 ** (1 / n)`` for none (Clopper and Pearson, Biometrika 26(4),
1934; for one side alone, and 5 %, it is the rule of three, about 3 / n). For pairs of one person n is the
number of people who have such pairs; pairs of two persons are taken as independent there, which makes that
end too narrow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from pocketnet_fast.evaluation.comparisons import Comparisons, pair_weights
from pocketnet_fast.evaluation.verification import Floats, Indices

REPLICATES: Final = 1000
_SEED: Final = 0
_TAIL: Final = 0.025
# Weights that are held at a time.
_WEIGHTS: Final = 1 << 20

Interval = tuple[float, float]


def person_weights(people: int) -> Iterator[Floats]:
    """Yield the weights of the replicates, R,people, in blocks; they are the same in every run."""
    generator = np.random.default_rng(_SEED)
    step = max(1, _WEIGHTS // max(people, 1))
    for start in range(0, REPLICATES, step):
        yield generator.poisson(1, (min(step, REPLICATES - start), people)).astype(np.float64)


class RateIntervals:
    """Intervals of 95 % for the rates of thresholds on one data set.

    Args:
        comparisons: Which images are compared.
        accepted_impostors: For each of rising thresholds the accepted pairs of two persons, indices of images
            N,2; those of the next threshold come first.
        accepted_genuine: Thresholds,people: accepted pairs of one person.

    Attributes:
        far: For each threshold.
        tar: For each threshold; None if there are no pairs of one person.
    """

    far: list[Interval]
    tar: list[Interval | None]

    def __init__(
        self, comparisons: Comparisons, accepted_impostors: Sequence[Indices], accepted_genuine: Indices
    ) -> None:
        genuine = comparisons.genuine_pairs()
        far, tar = [], []
        # Each threshold's pairs are those of the next one and some more, whose weights alone are summed.
        ends = [len(pairs) for pairs in accepted_impostors]
        more = [pairs[end:] for pairs, end in zip(accepted_impostors, [*ends[1:], 0], strict=True)]
        for weight in person_weights(comparisons.people):
            added = [pair_weights(weight, comparisons.person[pairs]) for pairs in reversed(more)]
            far.append(_ratios(np.cumsum(added, axis=0)[::-1], comparisons.impostor_weight(weight)))
            tar.append(_ratios(accepted_genuine @ weight.T, weight @ genuine))
        impostors, people = comparisons.impostor_pairs, int(np.count_nonzero(genuine))
        self.far = [
            _interval(rates, count, impostors, impostors)
            for rates, count in zip(np.concatenate(far, axis=1), ends, strict=True)
        ]
        self.tar = [
            _interval(rates, int(count), int(genuine.sum()), people) if people else None
            for rates, count in zip(np.concatenate(tar, axis=1), accepted_genuine.sum(1), strict=True)
        ]


def _ratios(accepted: Floats, total: Floats) -> Floats:
    """Rates of replicates, thresholds,R; NaN where one drew no pair at all."""
    return np.divide(accepted, total, out=np.full(accepted.shape, np.nan), where=total > 0)


def _interval(rates: Floats, accepted: int, pairs: int, independent: int) -> Interval:
    """The interval of a rate by its replicates, or, if none or every pair was accepted, the exact one."""
    unseen = 1 - _TAIL ** (1 / independent)
    if accepted == 0:
        return 0.0, unseen
    if accepted == pairs:
        return 1 - unseen, 1.0
    low, high = np.nanpercentile(rates, (100 * _TAIL, 100 - 100 * _TAIL))
    return float(low), float(high)
