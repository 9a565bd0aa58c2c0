"""Search in embeddings of eight bits, with candidates scored again exactly.

The products of bytes are NumKong's, the kernels of usearch. The bytes are a quarter of the embeddings, are
made from them when they are first searched and are nowhere on disk, so there is no index to be trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pocketnet_fast.extras import package_of
from pocketnet_fast.gallery.score_collectors import BestPerOwner, Indices
from pocketnet_fast.gallery.scoring import Embeddings, Scorer, scan_blocks

# Queries of one call; with more, the scores of a block leave the caches.
_QUERIES: Final = 16
_SCORES: Final = 1 << 17
_BATCH: Final = 8192
_LARGEST: Final = 127


class QuantizedRows:
    """Embeddings, each rounded to bytes by a scale of its own.

    Args:
        rows: N x D float32.
        people: N: whose they are.

    Raises:
        PocketNetError: NumKong is not installed.
    """

    def __init__(self, rows: Embeddings, people: Indices) -> None:
        self._numkong = _numkong()
        self._codes = np.empty(rows.shape, np.int8)
        self._scales = np.empty(len(rows), np.float32)
        self._by_person = np.argsort(people, kind="stable")
        self._people = people[self._by_person]
        for first in range(0, len(rows), _BATCH):
            part = rows[first : first + _BATCH]
            self._codes[first : first + _BATCH], self._scales[first : first + _BATCH] = _rounded(part)

    def __len__(self) -> int:
        return len(self._codes)

    def rows_of(self, people: Indices) -> Indices:
        """The rows of some people, as they were when this was made; people rise."""
        starts = np.searchsorted(self._people, people, "left")
        counts = np.searchsorted(self._people, people, "right") - starts
        before = np.cumsum(counts) - counts
        return self._by_person[np.arange(counts.sum()) + np.repeat(starts - before, counts)]

    def best(
        self,
        queries: Embeddings,
        count: int,
        owners: Callable[[Indices], Indices],
        *,
        threads: int | None,
    ) -> BestPerOwner:
        """The owners whose rows score highest, roughly.

        Args:
            queries: Q x D.
            count: How many owners of each query.
            owners: See ``BestPerOwner``.
            threads: Threads; None for as many as PyTorch uses.
        """
        if len(self) == 0 or len(queries) == 0:
            return BestPerOwner(len(queries), count, owners)
        # A query's own scale changes no order.
        codes, _ = _rounded(queries)
        width = min(len(queries), _QUERIES)
        block = max(_SCORES // width, 1)
        packed = [
            (first, self._numkong.dots_pack(np.ascontiguousarray(codes[first : first + _QUERIES])))
            for first in range(0, len(queries), _QUERIES)
        ]
        scales = torch.from_numpy(self._scales)

        def scorer() -> Scorer:
            buffer = torch.empty(block * width)

            def scores_of(start: int) -> Iterator[tuple[int, Tensor, Tensor]]:
                part, of_rows = self._codes[start : start + block], scales[start : start + block]
                for first, some in packed:
                    products = torch.from_numpy(np.asarray(self._numkong.dots_packed(part, some)))
                    scores = buffer[: products.numel()].view(products.shape[1], products.shape[0])
                    scores.copy_(products.T).mul_(of_rows)
                    yield first, scores, scores.amax(1)

            return scores_of

        return scan_blocks(
            len(self), block, scorer, lambda: BestPerOwner(len(queries), count, owners), threads=threads
        )


def _rounded(rows: Embeddings) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    largest = np.maximum(np.abs(rows).max(1), np.finfo(np.float32).tiny)
    codes = np.rint(rows * (_LARGEST / largest)[:, None]).astype(np.int8)
    return codes, np.asarray(largest / _LARGEST, np.float32)


def _numkong() -> Any:
    return package_of("int8", "numkong", "multiplies bytes", name="NumKong")
