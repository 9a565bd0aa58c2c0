"""Choosing a threshold for a false accept rate, on the safe side.

Among n pairs of two persons a rate FAR allows ``k = floor(FAR * n)`` to be accepted. The threshold is the
k-th highest of their cosines: the strictest of all thresholds that accept these k. If more than k pairs reach
it, because cosines are equal, the next higher cosine is taken. A new draw exceeds the k-th highest of n with
probability k / (n + 1), so that new pairs of the same kind are accepted at a rate of at most FAR on average.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.evaluation.rates import acceptable
from pocketnet_fast.evaluation.verification import Flags, Floats

_BLOCK = 1024

COLLAPSED: Final = 0.99
"""Mean cosine of two images beyond which no threshold tells people apart; a trained network's is small."""


@dataclass(frozen=True)
class Threshold:
    """A threshold and what it does on the pairs that it was chosen on.

    Attributes:
        cosine: From which a pair is accepted.
        false_accepts: Pairs of two persons that it accepts.
        impostor_pairs: Pairs of two persons.
        true_accepts: Pairs of one person that it accepts.
        genuine_pairs: Pairs of one person.
    """

    cosine: float
    false_accepts: int
    impostor_pairs: int
    true_accepts: int
    genuine_pairs: int


def allowed_false_accepts(impostors: int, far: float) -> int:
    """Return how many of ``impostors`` pairs of two persons a false accept rate allows to be accepted.

    Raises:
        PocketNetError: If it allows none, so that the pairs say nothing about the rate.
    """
    allowed = acceptable(impostors, far)
    if allowed < 1:
        least = int(np.ceil(1 / far * (1 - 1e-12)))
        raise PocketNetError(
            f"{impostors:,} pairs of two persons say nothing about a false accept rate of {far:g}; "
            f"at least {least:,} are needed"
        )
    return allowed


def count_pairs(labels: npt.NDArray[np.int64]) -> tuple[int, int]:
    """Return how many pairs of one person and of two persons images with these labels form."""
    sizes = np.unique(labels, return_counts=True)[1].astype(int)
    genuine = int((sizes * (sizes - 1) // 2).sum())
    return genuine, len(labels) * (len(labels) - 1) // 2 - genuine


def check_distinct(embeddings: npt.NDArray[np.floating]) -> None:
    """Refuse the embeddings of a collapsed network, which are nearly the same for every image.

    Args:
        embeddings: N,D, rows of length 1.

    Raises:
        PocketNetError: If their mean cosine is beyond ``COLLAPSED``.
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


def threshold_of_pairs(cosine: Floats, same: Flags, far: float) -> Threshold:
    """Choose the threshold on given pairs.

    Args:
        cosine: N.
        same: N: whether it is one person.
        far: Above 0, below 1.

    Raises:
        PocketNetError: If there are fewer than ``1 / far`` pairs of two persons, or more than ``far`` of them
            are as alike as two pictures can be.
    """
    impostors, genuine = cosine[~same], cosine[same]
    top = _Highest(allowed_false_accepts(len(impostors), far))
    top.add(impostors)
    return _counted(top, len(impostors), int(np.count_nonzero(genuine >= top.threshold)), len(genuine))


def threshold_of_all_pairs(
    embeddings: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], far: float
) -> Threshold:
    """Choose the threshold on all pairs of different images.

    Memory: a block of 1024 rows of the matrix of cosines at a time, and the ``far`` highest of all.

    Args:
        embeddings: N,D, rows of length 1.
        labels: N: who it is.
        far: Above 0, below 1.

    Raises:
        PocketNetError: As ``threshold_of_pairs``.
    """
    order = np.argsort(labels, kind="stable")
    rows, people = embeddings[order].astype(np.float32), labels[order]
    count = len(rows)
    genuine_pairs, impostor_pairs = count_pairs(labels)
    top = _Highest(allowed_false_accepts(impostor_pairs, far))
    for start in range(0, count, _BLOCK):
        block = slice(start, min(start + _BLOCK, count))
        cosine = rows[block] @ rows[start:].T
        # Rows are sorted by person, so those of others that follow are all beyond the person's last.
        ends = np.searchsorted(people, people[block], side="right") - start
        top.add(cosine[np.arange(cosine.shape[1]) >= ends[:, None]])
    threshold = top.threshold
    true_accepts = 0
    sizes = np.unique(people, return_counts=True)[1]
    for first, size in zip(np.cumsum(sizes) - sizes, sizes, strict=True):
        person = rows[first : first + size]
        for start in range(0, size, _BLOCK):
            cosine = person[start : start + _BLOCK] @ person[start:].T
            later = np.triu(np.ones(cosine.shape, bool), 1)
            true_accepts += int(np.count_nonzero(cosine[later] >= threshold))
    return _counted(top, impostor_pairs, true_accepts, genuine_pairs)


class _Highest:
    """The highest of all numbers added: as many as are allowed, and one more, which may equal the last."""

    def __init__(self, allowed: int) -> None:
        self._allowed = allowed
        self._kept: Floats = np.empty(0)

    def add(self, numbers: npt.NDArray[np.floating]) -> None:
        """Take numbers into account."""
        size = self._allowed + 1
        # Rounding takes the product of equal rows beyond 1.
        numbers = np.minimum(numbers, 1)
        if len(self._kept) >= size:
            numbers = numbers[numbers >= self._kept.min()]
        kept = np.concatenate([self._kept, numbers.astype(np.float64)])
        if len(kept) > size:
            kept = np.partition(kept, len(kept) - size)[-size:]
        self._kept = kept

    @property
    def threshold(self) -> float:
        """The strictest threshold that accepts as many as are allowed, or fewer if some are equal."""
        ranked = np.sort(self._kept)[::-1]
        chosen = ranked[self._allowed - 1]
        if len(ranked) > self._allowed and ranked[self._allowed] == chosen:
            higher = ranked[ranked > chosen]
            chosen = higher[-1] if len(higher) else np.nextafter(chosen, np.inf)
        return float(chosen)

    def count(self) -> int:
        """How many reach the threshold."""
        return int(np.count_nonzero(self._kept >= self.threshold))


def _counted(top: _Highest, impostor_pairs: int, true_accepts: int, genuine_pairs: int) -> Threshold:
    cosine = top.threshold
    if cosine > 1:
        raise PocketNetError(
            "more pairs of two persons than the rate allows have a cosine of 1: are they marked wrongly?"
        )
    return Threshold(cosine, top.count(), impostor_pairs, true_accepts, genuine_pairs)
