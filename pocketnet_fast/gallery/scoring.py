"""Scores of many embeddings against many, block by block, so that the matrix of all scores never exists.

A score is the product of two embeddings in float32, the cosine where both have length 1. What is wanted of
the scores is kept by a ``ScoreCollector``; each thread fills one of its own, and they are merged.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.gallery.score_collectors import BestPerQuery, Indices, ScoreCollector, Scores
from pocketnet_fast.ops.native import torch_on_this_thread_alone, usable_threads

Embeddings = npt.NDArray[np.float32]

# A block of scores stays in the second-level cache between the product and its reduction.
_QUERIES: Final = 512
_ROWS: Final = 512
# With few queries the scan is bound by reading the gallery. For 1M x 128, where a sum of all numbers takes
# 16 ms: one query takes 20 by numpy's sum of products, 38 by its dot, 70 by PyTorch's product; two take 27 by
# a product with the gallery on the left, and 100 with the queries on the left.
_FEW_QUERIES: Final = 16
_SCORES_FOR_FEW: Final = 1 << 16

Scorer = Callable[[int], Iterator[tuple[int, Tensor, Tensor]]]
"""Yields the scores of a block of rows: the number of the first query, q x r float32, which may be used again
afterwards, and the largest one of each query."""

CollectorT = TypeVar("CollectorT", bound=ScoreCollector)


def scan(
    queries: Embeddings,
    gallery: Embeddings,
    make_collector: Callable[[], CollectorT],
    *,
    threads: int | None = None,
    first_row: int = 0,
    on_rows: Callable[[int], None] | None = None,
) -> CollectorT:
    """Score every query against every gallery row.

    Memory beyond the arguments and collectors is a block of scores per thread. A score depends on the block
    it is computed in by float32 rounding, some 1e-7 for embeddings of length 1. The threads are this
    function's own, and PyTorch runs in each of them alone; its number of threads elsewhere is left as it is.

    Args:
        queries: Q x D.
        gallery: N x D; may be mapped from a file.
        make_collector: Makes what one thread fills.
        threads: Threads; None for as many as PyTorch uses. Never more than there are processors for them.
        first_row: Number that collectors are given for the first row.
        on_rows: Called from the threads, one at a time, with the number of rows done; may raise to end it.

    Returns:
        One collector with the scores of all.

    Raises:
        PocketNetError: The shapes do not fit, or an embedding is not finite.
    """
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise PocketNetError(f"embeddings of {queries.shape} and {gallery.shape} have no products")
    if not np.isfinite(queries).all():
        wrong = int(np.flatnonzero(~np.isfinite(queries).all(1))[0])
        raise PocketNetError(f"query {wrong} is not finite")
    asked = torch.from_numpy(np.array(queries, np.float32, order="C"))
    if len(asked) == 0 or len(gallery) == 0:
        return make_collector()
    few = len(asked) <= _FEW_QUERIES
    rows = _SCORES_FOR_FEW // len(asked) if few else _ROWS
    width = len(asked) if few else min(len(asked), _QUERIES)
    block = _few_block if few else _block

    def scorer() -> Scorer:
        buffer = torch.empty(rows * width)

        def scores_of(start: int) -> Iterator[tuple[int, Tensor, Tensor]]:
            part = torch.from_numpy(np.ascontiguousarray(gallery[start : start + rows], np.float32))
            for first in range(0, len(asked), width):
                scores = block(asked[first : first + width], part, buffer)
                highest = scores.amax(1)
                if not bool(highest.isfinite().all()):
                    _refuse_row(gallery, start, rows, first_row)
                yield first, scores, highest

        return scores_of

    return scan_blocks(
        len(gallery), rows, scorer, make_collector, threads=threads, first_row=first_row, on_rows=on_rows
    )


def scan_blocks(
    count: int,
    rows: int,
    scorer: Callable[[], Scorer],
    make_collector: Callable[[], CollectorT],
    *,
    threads: int | None,
    first_row: int = 0,
    on_rows: Callable[[int], None] | None = None,
) -> CollectorT:
    """Let threads score block after block, however that is done; see ``scan``.

    Args:
        count: N.
        rows: Rows of a block.
        scorer: Makes what one thread calls with the number of a block's first row.
        make_collector: As in ``scan``.
        threads: As in ``scan``.
        first_row: As in ``scan``.
        on_rows: As in ``scan``.
    """
    kept = make_collector()
    starts = iter(range(0, count, rows))
    lock = threading.Lock()
    stop = threading.Event()

    def work(collector: CollectorT) -> CollectorT:
        try:
            fill(collector)
        except BaseException:
            stop.set()
            raise
        return collector

    def fill(collector: CollectorT) -> None:
        scores_of = scorer()
        while not stop.is_set():
            with lock:
                start = next(starts, None)
            if start is None:
                return
            for first, scores, highest in scores_of(start):
                collector.add(scores, highest, first, first_row + start)
            if on_rows is not None:
                with lock:
                    on_rows(min(rows, count - start))

    workers = min(usable_threads(threads), -(-count // rows))
    with ThreadPoolExecutor(workers, initializer=torch_on_this_thread_alone) as pool:
        try:
            collectors = list(pool.map(work, [make_collector() for _ in range(workers)]))
        finally:
            stop.set()  # an interrupt of the caller's thread ends the others too
    for collector in collectors:
        kept.merge(collector)
    return kept


def top_matches(
    queries: Embeddings,
    gallery: Embeddings,
    top: int,
    *,
    threads: int | None = None,
    on_rows: Callable[[int], None] | None = None,
) -> tuple[Scores, Indices]:
    """Find the gallery rows with the highest scores, exactly.

    Args:
        queries: Q x D.
        gallery: N x D; may be mapped from a file.
        top: How many of each query; at most N are found.
        threads: Threads; None for as many as PyTorch uses. Never more than there are processors for them.
        on_rows: Called with the number of rows done; may raise to end it.

    Returns:
        Scores, Q x min(top, N) float32, falling, and the rows, Q x min(top, N) int64. Equal scores come in
        the order of the rows.

    Raises:
        PocketNetError: ``top`` is not positive, and see ``scan``.
    """
    if top < 1:
        raise PocketNetError(f"the number of matches must be positive, got {top}")
    width = min(top, len(gallery))
    best = scan(queries, gallery, lambda: BestPerQuery(len(queries), width), threads=threads, on_rows=on_rows)
    return best.scores, best.rows


def _block(queries: Tensor, rows: Tensor, buffer: Tensor) -> Tensor:
    out = buffer[: len(queries) * len(rows)].view(len(queries), len(rows))
    return torch.mm(queries, rows.T, out=out)


def _few_block(queries: Tensor, rows: Tensor, buffer: Tensor) -> Tensor:
    out = buffer[: len(queries) * len(rows)].view(len(rows), len(queries))
    if len(queries) == 1:
        np.einsum("nd,d->n", rows.numpy(), queries[0].numpy(), out=out[:, 0].numpy())
        return out.T
    torch.mm(rows, queries.T, out=out)
    # Transposed, because reducing along a stride takes longer than the product; by numpy, in an eighth of
    # PyTorch's time.
    return torch.from_numpy(np.ascontiguousarray(out.numpy().T))


def _refuse_row(gallery: Embeddings, start: int, rows: int, first_row: int) -> None:
    finite = np.isfinite(gallery[start : start + rows]).all(1)
    wrong = int(np.flatnonzero(~finite)[0]) if not finite.all() else 0
    raise PocketNetError(f"the embedding in row {first_row + start + wrong} is not finite")
