"""The products of an operation with the moments of their runs: the first launch of both passes.

The backward pass computes them again, with the sums that their own gradient needs.
"""

from __future__ import annotations

import triton
import triton.language as tl

from pocketnet_fast.ops.cell.triton_kernels.shared import (
    AVG_POOL,
    MAX_POOL,
    NORMALIZE,
    counted,
    filtered_tile,
    keep_measured,
    measured,
    nothing_measured,
    pixel_of,
    pixels_of,
    places_of,
    row_of,
    run_of,
)
from pocketnet_fast.ops.triton_numerics import product, rounded
from pocketnet_fast.ops.triton_places import own_indices


@triton.jit
def cell_products_forward(
    parts, slope, depthwise, pointwise, filtered, products, gradient, mean, table,
    pixels, height, width, out_height, out_width, stride, first_out, tiles,
    CHANNELS: tl.constexpr, OUT: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr,
    OFFSET: tl.constexpr, KEEP: tl.constexpr, BACKWARD: tl.constexpr, PIXELS: tl.constexpr,
    INNER: tl.constexpr, OUTER: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """PReLU, depthwise, pointwise: run program_id(0), OUTER of OUT channels a program.

    ``parts`` are states of CHANNELS each. ``filtered`` is written where KEEP. ``table``, 2,runs,OUT float64,
    holds mean and squared distances of a run; BACKWARD, its sums of g and of g times (z - mean), where g is
    the OUT channels from ``first_out`` on of ``gradient``, which has ``stride`` channels.
    """
    IN: tl.constexpr = CHANNELS * len(parts)
    run = tl.program_id(0)
    out, known = own_indices(1, OUTER, OUT)
    centre, first, second = nothing_measured(mean, out, known, BACKWARD)
    begin, end = run_of(run, tiles, pixels, PIXELS)
    for tile in range(begin, end):
        p, valid, n, y, x = places_of(tile, pixels, out_height, out_width, PIXELS)
        sums = tl.zeros((PIXELS, OUTER), tl.float32)
        for part in tl.static_range(len(parts)):
            for channel in range(0, CHANNELS, INNER):
                c = channel + tl.arange(0, INNER)
                value = filtered_tile(
                    parts[part], slope, depthwise, n, y, x, valid, c, height, width, part * CHANNELS,
                    CHANNELS, KERNEL, STRIDE, OFFSET,
                )  # fmt: skip
                value = rounded(value, filtered.dtype.element_ty)
                inner = part * CHANNELS + c
                # Not one condition: a constant and a program's number make no constant.
                if KEEP:  # noqa: SIM102
                    if tl.program_id(1) == 0:
                        to = filtered + p.to(tl.int64)[:, None] * IN + inner[None, :]
                        tl.store(to, value, mask=valid[:, None] & (c < CHANNELS)[None, :])
                at = pointwise + out[None, :] * IN + inner[:, None]
                weight = tl.load(at, mask=known[None, :] & (c < CHANNELS)[:, None], other=0.0)
                sums = product(value, rounded(weight, value.dtype), sums, PRECISION)
        to = products + p.to(tl.int64)[:, None] * OUT + out[None, :]
        tl.store(to, sums, mask=valid[:, None] & known[None, :])
        count, seen = counted(tile, begin, pixels, PIXELS)
        first, second = measured(
            sums, p, valid, count, seen, out, known, gradient, stride, first_out, centre, first, second,
            BACKWARD,
        )  # fmt: skip
    keep_measured(table, run, out, known, first, second, OUT)


@triton.jit
def cell_window_forward(
    state, products, winners, gradient, mean, table,
    pixels, height, width, out_height, out_width, stride, first_out, tiles,
    CHANNELS: tl.constexpr, KIND: tl.constexpr, STRIDE: tl.constexpr, CENTRED: tl.constexpr,
    BACKWARD: tl.constexpr, PIXELS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Pools, or the state itself, whose products are not written; otherwise as ``cell_products_forward``.

    ``winners``, pixels x CHANNELS int8, is written for a maximum BACKWARD: which of the nine pixels has it.
    Not CENTRED, the centre is 0.
    """
    run = tl.program_id(0)
    c, known = own_indices(1, LANES, CHANNELS)
    centre, first, second = nothing_measured(mean, c, known, CENTRED)
    begin, end = run_of(run, tiles, pixels, PIXELS)
    for tile in range(begin, end):
        p, valid = pixels_of(tile, pixels, PIXELS)
        to = p.to(tl.int64)[:, None] * CHANNELS + c[None, :]
        mask = valid[:, None] & known[None, :]
        if KIND != NORMALIZE:
            n, y, x = pixel_of(p, out_height, out_width)
            z = tl.zeros((PIXELS, LANES), tl.float32)
            winner = tl.full((PIXELS, LANES), -1, tl.int32)
            inside_window = tl.zeros((PIXELS,), tl.float32)
            for tap in range(9):
                sy = y * STRIDE + tap // 3 - 1
                sx = x * STRIDE + tap % 3 - 1
                inside = valid & (sy >= 0) & (sy < height) & (sx >= 0) & (sx < width)
                at = row_of(n, sy, sx, height, width)[:, None] * CHANNELS + c[None, :]
                value = tl.load(state + at, mask=inside[:, None] & known[None, :], other=0.0)
                if KIND == MAX_POOL:
                    larger = (winner < 0) | (value > z) | (value != value)  # noqa: PLR0124
                    larger = larger & inside[:, None]
                    z = tl.where(larger, value, z)
                    winner = tl.where(larger, tap, winner)
                else:
                    z += value
                    inside_window += tl.where(inside, 1.0, 0.0)
            if KIND == AVG_POOL:
                z = z / tl.maximum(inside_window, 1.0)[:, None]
            tl.store(products + to, z, mask=mask)
            if KIND == MAX_POOL and BACKWARD:
                tl.store(winners + to, winner.to(tl.int8), mask=mask)
        else:
            z = tl.load(state + to, mask=mask, other=0.0)
        count, seen = counted(tile, begin, pixels, PIXELS)
        first, second = measured(
            z, p, valid, count, seen, c, known, gradient, stride, first_out, centre, first, second, BACKWARD
        )
    keep_measured(table, run, c, known, first, second, CHANNELS)
