"""The pairs of a data set that a threshold is chosen on: those listed, or all of different people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from pocketnet_fast.evaluation.highest import HighestPairs
from pocketnet_fast.evaluation.verification import Flags, Floats, Indices

Rows = npt.NDArray[np.float32]

FIRST: Final = 0
SECOND: Final = 1
BOTH: Final = 2

# Cosines that are computed at a time.
_BLOCK: Final = 1 << 22


@dataclass(frozen=True, eq=False)
class Comparisons:
    """Which images of a data set make pairs of two persons, and which pairs of one.

    Attributes:
        name: How messages call the data set.
        person: N: whom each image shows, 0 to the number of people less one, as far as that is known.
        group: N: images of different groups show different people; a person's are all in one group.
        impostors: Pairs of two persons, M,2; None: all pairs of images of different groups, of the kind that
            ``side`` says.
        genuine: Pairs of one person, M,2; None: all pairs of images of one person.
        side: N: where the images stand in the listed pairs: ``FIRST``, ``SECOND``, or ``BOTH`` in some pair
            each. Two images that stand on one side alone, the same one, are not compared. None: all are.
    """

    name: str
    person: Indices
    group: Indices
    impostors: Indices | None = None
    genuine: Indices | None = None
    side: Indices | None = None

    @property
    def people(self) -> int:
        """Number of people."""
        return int(self.person.max()) + 1 if len(self.person) else 0

    @property
    def impostor_pairs(self) -> int:
        """Number of pairs of two persons."""
        if self.impostors is not None:
            return len(self.impostors)
        return round(float(self._pairs_across(np.ones((1, self.people)))[0]))

    def genuine_pairs(self) -> Indices:
        """Number of pairs of one person, by person."""
        if self.genuine is not None:
            return np.bincount(self.person[self.genuine[:, 0]], minlength=self.people)
        sizes = np.bincount(self.person, minlength=self.people)
        return np.asarray(sizes * (sizes - 1) // 2)

    def highest(self, rows: Rows, count: int) -> HighestPairs:
        """Return the most similar pairs of two persons.

        Memory: about 32 bytes for each pair kept, and a block of the matrix of cosines.

        Args:
            rows: The embeddings, N,D, of length 1.
            count: How many to keep.
        """
        kept = HighestPairs(count)
        if self.impostors is not None:
            one, other = self.impostors.T
            kept.add(_cosines(rows, one, other), one, other)
            return kept
        order = np.argsort(self.group, kind="stable")
        ordered, group = rows[order], self.group[order]
        side = None if self.side is None else self.side[order]
        # Sorted by group, an image's partners are all those beyond its group's last.
        ends = np.searchsorted(group, group, side="right")
        start = 0
        while start < len(ordered) and ends[start] < len(ordered):
            stop = min(start + max(1, _BLOCK // len(ordered)), len(ordered))
            beyond = int(ends[start])
            cosine = ordered[start:stop] @ ordered[beyond:].T
            cosine[np.arange(beyond, len(ordered)) < ends[start:stop, None]] = -np.inf
            if side is not None:
                cosine[_on_one_side(side[start:stop, None], side[beyond:])] = -np.inf
            # No cosine is below -2, so while there is room all are taken but those left out.
            chosen = np.flatnonzero(cosine >= max(kept.floor, -2))
            one, other = np.divmod(chosen, cosine.shape[1])
            kept.add(cosine.reshape(-1)[chosen], order[start + one], order[beyond + other])
            start = stop
        return kept

    def impostor_weight(self, weight: Floats) -> Floats:
        """Sum the weights of all pairs of two persons: a pair's is the product of its people's.

        Args:
            weight: R,people.

        Returns:
            R.
        """
        if self.impostors is not None:
            return pair_weights(weight, self.person[self.impostors])
        return self._pairs_across(weight)

    def _pairs_across(self, weight: Floats) -> Floats:
        """Sum the weights of all pairs of images of different groups that ``side`` lets compare."""
        every = np.ones(len(self.person), bool)
        total = self._pairs_among(every, weight)
        if self.side is not None:
            for side in (FIRST, SECOND):
                total -= self._pairs_among(self.side == side, weight)
        return total

    def _pairs_among(self, chosen: Flags, weight: Floats) -> Floats:
        """The same of all pairs among the chosen images."""
        group = np.zeros(self.people, np.int64)
        group[self.person] = self.group
        order = np.argsort(group, kind="stable")
        first = np.unique(group[order], return_index=True)[1]
        images = weight * np.bincount(self.person[chosen], minlength=self.people)
        groups = np.add.reduceat(images[:, order], first, axis=1)
        return np.asarray((np.square(groups.sum(1)) - np.square(groups).sum(1)) / 2)

    def accepted_genuine(self, rows: Rows, thresholds: list[float]) -> Indices:
        """Count the pairs of one person that reach each threshold, by person: thresholds,people."""
        limits = np.asarray(thresholds)
        if self.genuine is not None:
            one, other = self.genuine.T
            reached = _cosines(rows, one, other) >= limits[:, None]
            return np.stack(
                [np.bincount(self.person[one[flags]], minlength=self.people) for flags in reached]
            )
        order = np.argsort(self.person, kind="stable")
        sizes = np.bincount(self.person, minlength=self.people)
        accepted = np.zeros((len(thresholds), self.people), np.int64)
        for person, (first, size) in enumerate(zip(np.cumsum(sizes) - sizes, sizes, strict=True)):
            images = rows[order[first : first + size]]
            step = max(1, _BLOCK // max(int(size), 1))
            for start in range(0, int(size), step):
                cosine = images[start : start + step] @ images[start:].T
                later = cosine[np.triu(np.ones(cosine.shape, bool), 1)]
                accepted[:, person] += [np.count_nonzero(later >= limit) for limit in limits]
        return accepted


def _on_one_side(one: Indices, other: Indices) -> Flags:
    same: Flags = (one == other) & (one != BOTH)
    return same


def pair_weights(weight: Floats, people: Indices) -> Floats:
    """Sum the weights of pairs, R: a pair's is the product of its people's, or its one person's.

    Args:
        weight: R,people.
        people: M,2: the people of each pair. Pairs that are marked as of two may be known to show one.
    """
    apart = people[people[:, 0] != people[:, 1]]
    alone = people[people[:, 0] == people[:, 1], 0]
    total = weight[:, alone].sum(1)
    step = max(1, _BLOCK // max(len(weight), 1))
    for start in range(0, len(apart), step):
        one, other = apart[start : start + step].T
        total += np.einsum("rm,rm->r", weight[:, one], weight[:, other])
    return np.asarray(total)


def _cosines(rows: Rows, one: Indices, other: Indices) -> Floats:
    cosine = np.empty(len(one))
    step = max(1, _BLOCK // rows.shape[1])
    for start in range(0, len(one), step):
        part = slice(start, start + step)
        left, right = rows[one[part]].astype(np.float64), rows[other[part]].astype(np.float64)
        cosine[part] = np.einsum("nd,nd->n", left, right)
    return cosine
