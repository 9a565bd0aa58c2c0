"""The most similar of many pairs, while blocks of them come in."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pocketnet_fast.evaluation.verification import Floats, Indices


class HighestPairs:
    """Keeps the pairs of the highest cosines.

    Args:
        size: How many to keep, at least 1.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._cosine: list[npt.NDArray[np.floating]] = []
        self._first: list[Indices] = []
        self._second: list[Indices] = []
        self._held = 0
        self._floor = -np.inf

    @property
    def floor(self) -> float:
        """The cosine that further pairs must reach to matter; -inf while there is room."""
        return self._floor

    def add(self, cosine: npt.NDArray[np.floating], first: Indices, second: Indices) -> None:
        """Take pairs into account: their cosines and the indices of their images."""
        # Rounding takes the product of equal rows beyond 1.
        self._cosine.append(np.minimum(cosine, 1))
        self._first.append(first)
        self._second.append(second)
        self._held += len(cosine)
        if self._held > 2 * self._size:
            self._reduce()

    def falling(self) -> tuple[Floats, Indices]:
        """The cosines kept, falling, and the indices of their pairs, N,2."""
        self._reduce()
        order = np.argsort(-self._cosine[0], kind="stable")
        pairs = np.stack([self._first[0], self._second[0]], axis=1)[order]
        return self._cosine[0][order].astype(np.float64), pairs

    def _reduce(self) -> None:
        cosine = np.concatenate([np.empty(0, np.float32), *self._cosine])
        first = np.concatenate([np.empty(0, np.int64), *self._first])
        second = np.concatenate([np.empty(0, np.int64), *self._second])
        if len(cosine) > self._size:
            chosen = np.argpartition(cosine, len(cosine) - self._size)[-self._size :]
            cosine, first, second = cosine[chosen], first[chosen], second[chosen]
        if len(cosine) == self._size:
            self._floor = float(cosine.min())
        self._cosine, self._first, self._second = [cosine], [first], [second]
        self._held = len(cosine)
