"""The products of all operations of a searched edge, which read one state: one launch for the six of them."""

from __future__ import annotations

import triton
import triton.language as tl

from pocketnet_fast.ops.cell.triton_kernels.shared import (
    centre_of,
    counted,
    filtered_tile,
    keep_measured,
    measured,
    places_of,
    row_of,
    run_of,
)
from pocketnet_fast.ops.triton_numerics import prelu, product, rounded


@triton.jit
def _finish(z, products, place, measure, mean, first, second, CHANNELS: tl.constexpr, BACKWARD: tl.constexpr):
    """A tile of products is stored, and measured as ``measured`` does it.

    ``place``: pixels, which of them are valid, their count, how many the run has seen, channels; ``measure``:
    gradient, its stride and first channel.
    """
    p, valid, count, seen, c = place
    gradient, stride, first_out = measure
    known = c < CHANNELS
    to = products + p.to(tl.int64)[:, None] * CHANNELS + c[None, :]
    tl.store(to, z, mask=valid[:, None] & known[None, :])
    # Read for each tile, which is cheap, so that it takes no registers in between.
    centre = centre_of(mean, c, known, BACKWARD)
    return measured(
        z, p, valid, count, seen, c, known, gradient, stride, first_out, centre, first, second, BACKWARD
    )


@triton.jit
def _finish_pools(
    largest, winner, average, products, winners, place, measure, means,
    first_max, second_max, first_avg, second_avg,
    CHANNELS: tl.constexpr, BACKWARD: tl.constexpr,
):  # fmt: skip
    """``_finish`` for maximum and average; BACKWARD, the places of the maxima are stored."""
    p, valid, _, _, c = place
    if BACKWARD:
        to = winners + p.to(tl.int64)[:, None] * CHANNELS + c[None, :]
        tl.store(to, winner.to(tl.int8), mask=valid[:, None] & (c < CHANNELS)[None, :])
    first_max, second_max = _finish(
        largest, products[4], place, measure, means[4], first_max, second_max, CHANNELS, BACKWARD
    )
    first_avg, second_avg = _finish(
        average, products[5], place, measure, means[5], first_avg, second_avg, CHANNELS, BACKWARD
    )
    return first_max, second_max, first_avg, second_avg


@triton.jit
def _project(
    value, pointwise, filtered, products, place, measure, mean, first, second,
    CHANNELS: tl.constexpr, KEEP: tl.constexpr, BACKWARD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``_finish`` for the products of a tile of the filtered state, which is stored where KEEP."""
    p, valid, _, _, c = place
    value = rounded(value, filtered.dtype.element_ty)
    if KEEP:
        to = filtered + p.to(tl.int64)[:, None] * CHANNELS + c[None, :]
        tl.store(to, value, mask=valid[:, None] & (c < CHANNELS)[None, :])
    known = (c < CHANNELS)[None, :] & (c < CHANNELS)[:, None]
    weight = tl.load(pointwise + c[None, :] * CHANNELS + c[:, None], mask=known, other=0.0)
    sums = tl.zeros((p.shape[0], c.shape[0]), tl.float32)
    sums = product(value, rounded(weight, value.dtype), sums, PRECISION)
    return _finish(sums, products, place, measure, mean, first, second, CHANNELS, BACKWARD)


@triton.jit
def _read_windows(
    state, slopes, depthwises, n, y, x, valid, c, height, width,
    CHANNELS: tl.constexpr, STRIDE: tl.constexpr,
):  # fmt: skip
    """What the windows of 3, 5 and 7 make of a tile: filtered, the largest and its place, the average.

    ``slopes`` are those of kernels 3, 5 and 7.
    """
    known = c < CHANNELS
    slope3, slope5, slope7 = slopes
    filtered3 = tl.zeros((y.shape[0], c.shape[0]), tl.float32)
    filtered5 = tl.zeros((y.shape[0], c.shape[0]), tl.float32)
    filtered7 = tl.zeros((y.shape[0], c.shape[0]), tl.float32)
    largest = tl.zeros((y.shape[0], c.shape[0]), tl.float32)
    winner = tl.full((y.shape[0], c.shape[0]), -1, tl.int32)
    total = tl.zeros((y.shape[0], c.shape[0]), tl.float32)
    inside_window = tl.zeros((y.shape[0],), tl.float32)
    # Unrolled, 49 taps of six operations would take the compiler minutes.
    for tap in range(49):
        ky = tap // 7 - 3
        kx = tap % 7 - 3
        sy = y * STRIDE + ky
        sx = x * STRIDE + kx
        inside = valid & (sy >= 0) & (sy < height) & (sx >= 0) & (sx < width)
        at = row_of(n, sy, sx, height, width)[:, None] * CHANNELS + c[None, :]
        value = tl.load(state + at, mask=inside[:, None] & known[None, :], other=0.0)
        weight = tl.load(depthwises[3] + c * 49 + tap, mask=known, other=0.0)
        filtered7 += prelu(value, slope7) * weight[None, :]
        # A program is at one tap: a narrower window skips it, rather than weigh it with a zero, which
        # would let a NaN in.
        distance = tl.maximum(ky * ky, kx * kx)
        if distance <= 4:
            weight = tl.load(depthwises[2] + c * 25 + (ky + 2) * 5 + kx + 2, mask=known, other=0.0)
            filtered5 += prelu(value, slope5) * weight[None, :]
        if distance <= 1:
            small = (ky + 1) * 3 + kx + 1
            weight = tl.load(depthwises[1] + c * 9 + small, mask=known, other=0.0)
            filtered3 += prelu(value, slope3) * weight[None, :]
            larger = (winner < 0) | (value > largest) | (value != value)  # noqa: PLR0124
            larger = larger & inside[:, None]
            largest = tl.where(larger, value, largest)
            winner = tl.where(larger, small, winner)
            total += value
            inside_window += tl.where(inside, 1.0, 0.0)
    average = total / tl.maximum(inside_window, 1.0)[:, None]
    return filtered3, filtered5, filtered7, largest, winner, average


@triton.jit
def cell_mixed_forward(
    state, slopes, depthwises, pointwises, filtered, products, winners, gradient, means, tables,
    pixels, height, width, out_height, out_width, stride, first_out, tiles,
    CHANNELS: tl.constexpr, STRIDE: tl.constexpr, BACKWARD: tl.constexpr, PIXELS: tl.constexpr,
    LANES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A mixed edge: what the kernels of single operations make of one state, in one pass over it.

    Tuples are by kernel, 1, 3, 5 and 7; ``products``, ``means`` and ``tables`` end with those of maximum and
    average. CHANNELS are those of the state and of every result; LANES are all of them.
    """
    run = tl.program_id(0)
    c = tl.arange(0, LANES)
    known = c < CHANNELS
    slope3 = tl.load(slopes[1] + c, mask=known, other=0.0)[None, :]
    slope5 = tl.load(slopes[2] + c, mask=known, other=0.0)[None, :]
    slope7 = tl.load(slopes[3] + c, mask=known, other=0.0)[None, :]
    zeros = tl.zeros((LANES,), tl.float64)
    first1, second1, first3, second3 = zeros, zeros, zeros, zeros
    first5, second5, first7, second7 = zeros, zeros, zeros, zeros
    first_max, second_max, first_avg, second_avg = zeros, zeros, zeros, zeros
    begin, end = run_of(run, tiles, pixels, PIXELS)
    for tile in range(begin, end):
        p, valid, n, y, x = places_of(tile, pixels, out_height, out_width, PIXELS)
        filtered3, filtered5, filtered7, largest, winner, average = _read_windows(
            state, (slope3, slope5, slope7), depthwises, n, y, x, valid, c, height, width, CHANNELS, STRIDE
        )
        count, seen = counted(tile, begin, pixels, PIXELS)
        place = (p, valid, count, seen, c)
        measure = (gradient, stride, first_out)
        first_max, second_max, first_avg, second_avg = _finish_pools(
            largest, winner, average, products, winners, place, measure, means,
            first_max, second_max, first_avg, second_avg, CHANNELS, BACKWARD,
        )  # fmt: skip
        first3, second3 = _project(
            filtered3, pointwises[1], filtered[1], products[1], place, measure, means[1], first3, second3,
            CHANNELS, BACKWARD, BACKWARD, PRECISION,
        )  # fmt: skip
        first5, second5 = _project(
            filtered5, pointwises[2], filtered[2], products[2], place, measure, means[2], first5, second5,
            CHANNELS, BACKWARD, BACKWARD, PRECISION,
        )  # fmt: skip
        first7, second7 = _project(
            filtered7, pointwises[3], filtered[3], products[3], place, measure, means[3], first7, second7,
            CHANNELS, BACKWARD, BACKWARD, PRECISION,
        )  # fmt: skip
        filtered1 = filtered_tile(
            state, slopes[0], depthwises[0], n, y, x, valid, c, height, width, 0, CHANNELS, 1, STRIDE, 0
        )
        first1, second1 = _project(
            filtered1, pointwises[0], filtered[0], products[0], place, measure, means[0], first1, second1,
            CHANNELS, False, BACKWARD, PRECISION,
        )  # fmt: skip
    keep_measured(tables[0], run, c, known, first1, second1, CHANNELS)
    keep_measured(tables[1], run, c, known, first3, second3, CHANNELS)
    keep_measured(tables[2], run, c, known, first5, second5, CHANNELS)
    keep_measured(tables[3], run, c, known, first7, second7, CHANNELS)
    keep_measured(tables[4], run, c, known, first_max, second_max, CHANNELS)
    keep_measured(tables[5], run, c, known, first_avg, second_avg, CHANNELS)
