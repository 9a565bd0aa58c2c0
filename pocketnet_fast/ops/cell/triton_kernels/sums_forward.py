"""The moments of all runs together, and the sum of a node's normalised operations."""

from __future__ import annotations

import triton
import triton.language as tl

from pocketnet_fast.ops.cell.triton_kernels.shared import RESIDUAL, SCALED
from pocketnet_fast.ops.triton_places import own_indices


@triton.jit
def cell_moments_forward(
    table, gamma, beta, mean, variance, vectors,
    runs, pixels, run_pixels, epsilon,
    OUT: tl.constexpr, RUNS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Mean and variance of all runs, of ``run_pixels`` each but the last; ``vectors``: scale and shift."""
    c, known = own_indices(0, LANES, OUT)
    count = tl.cast(pixels, tl.float64)
    total = tl.zeros((LANES,), tl.float64)
    for begin in range(0, runs, RUNS):
        run = begin + tl.arange(0, RUNS)
        mask = (run < runs)[:, None] & known[None, :]
        own = tl.minimum(run_pixels, pixels - run * run_pixels).to(tl.float64)
        means = tl.load(table + run[:, None] * OUT + c[None, :], mask=mask, other=0.0)
        total += tl.sum(tl.where(mask, means * own[:, None], 0.0), 0)
    middle = total / count
    square = tl.zeros((LANES,), tl.float64)
    for begin in range(0, runs, RUNS):
        run = begin + tl.arange(0, RUNS)
        mask = (run < runs)[:, None] & known[None, :]
        own = tl.minimum(run_pixels, pixels - run * run_pixels).to(tl.float64)
        at = table + run[:, None] * OUT + c[None, :]
        distance = tl.load(at, mask=mask, other=0.0) - middle[None, :]
        squares = tl.load(at + runs * OUT, mask=mask, other=0.0)
        square += tl.sum(tl.where(mask, squares + distance * distance * own[:, None], 0.0), 0)
    spread = square / count
    scale = tl.load(gamma + c, mask=known, other=0.0).to(tl.float64) / tl.sqrt(spread + epsilon)
    shift = tl.load(beta + c, mask=known, other=0.0).to(tl.float64) - scale * middle
    tl.store(mean + c, middle, mask=known)
    tl.store(variance + c, spread, mask=known)
    tl.store(vectors + c, scale.to(tl.float32), mask=known)
    tl.store(vectors + OUT + c, shift.to(tl.float32), mask=known)


@triton.jit
def cell_sum_forward(
    terms, vectors, firsts, widths, result,
    pixels,
    CHANNELS: tl.constexpr, MODES: tl.constexpr, PIXELS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """A sum of ``terms``, each ``widths`` channels that go to those from ``firsts`` on.

    ``vectors``: of each term its scale and, one width later, its shift. MODES, two bits a term: RESIDUAL has
    neither, SCALED no shift.
    """
    p, valid = own_indices(0, PIXELS, pixels)
    c, inside = own_indices(1, LANES, CHANNELS)
    row = p.to(tl.int64)[:, None]
    sums = tl.zeros((PIXELS, LANES), tl.float32)
    for term in tl.static_range(len(terms)):
        own = c - firsts[term]
        known = (own >= 0) & (own < widths[term])
        value = tl.load(
            terms[term] + row * widths[term] + own[None, :], mask=valid[:, None] & known[None, :], other=0.0
        )
        if MODES // 4**term % 4 != RESIDUAL:
            value = value * tl.load(vectors[term] + own, mask=known, other=0.0)[None, :]
            if MODES // 4**term % 4 != SCALED:
                value = value + tl.load(vectors[term] + widths[term] + own, mask=known, other=0.0)[None, :]
        sums += value
    tl.store(result + row * CHANNELS + c[None, :], sums, mask=valid[:, None] & inside[None, :])
