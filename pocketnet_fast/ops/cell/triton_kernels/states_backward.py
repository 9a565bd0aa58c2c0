"""The gradients of the states that operations read, gathered pixel by pixel."""

from __future__ import annotations

import triton
import triton.language as tl

from pocketnet_fast.ops.cell.triton_kernels.shared import (
    MAX_POOL,
    NORMALIZE,
    pixel_of,
    products_gradient,
    row_of,
)
from pocketnet_fast.ops.triton_numerics import prelu
from pocketnet_fast.ops.triton_places import own_indices


@triton.jit
def cell_depthwise_backward(
    state, slope, depthwise, grad_filtered, grad_state, slope_table, depthwise_table,
    pixels, height, width, out_height, out_width, first_in,
    CHANNELS: tl.constexpr, IN: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr,
    OFFSET: tl.constexpr, ACCUMULATE: tl.constexpr, PIXELS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Gradient of a state: each of its pixels gathers from the outputs that read it.

    PIXELS x LANES a program; ``slope_table`` is programs,IN and ``depthwise_table`` programs,IN,KERNEL^2,
    float32. The state's CHANNELS are those of IN from ``first_in`` on. Where ACCUMULATE, ``grad_state`` is
    added to.
    """
    p, valid = own_indices(0, PIXELS, pixels)
    n, y, x = pixel_of(p, height, width)
    c, known = own_indices(1, LANES, CHANNELS)
    inner = first_in + c
    own = tl.program_id(0).to(tl.int64) * IN + inner
    to = p.to(tl.int64)[:, None] * CHANNELS + c[None, :]
    mask = valid[:, None] & known[None, :]
    value = tl.load(state + to, mask=mask, other=0.0)
    slopes = tl.load(slope + inner, mask=known, other=0.0)
    active = prelu(value, slopes[None, :])
    sums = tl.zeros((PIXELS, LANES), tl.float32)
    for tap in range(KERNEL * KERNEL):
        dy = y + (KERNEL // 2 - OFFSET) - tap // KERNEL
        dx = x + (KERNEL // 2 - OFFSET) - tap % KERNEL
        oy = dy // STRIDE
        ox = dx // STRIDE
        inside = valid & (dy >= 0) & (dx >= 0) & (oy < out_height) & (ox < out_width)
        inside = inside & (oy * STRIDE == dy) & (ox * STRIDE == dx)
        at = row_of(n, oy, ox, out_height, out_width)[:, None] * IN + inner[None, :]
        by_filtered = tl.load(grad_filtered + at, mask=inside[:, None] & known[None, :], other=0.0)
        by_filtered = by_filtered.to(tl.float32)
        weight = tl.load(depthwise + inner * (KERNEL * KERNEL) + tap, mask=known, other=0.0)
        sums += by_filtered * weight[None, :]
        at = depthwise_table + own * (KERNEL * KERNEL) + tap
        tl.store(at, tl.sum(by_filtered * active, 0), mask=known)
    by_slope = tl.sum(tl.where(value > 0, 0.0, sums * value), 0)
    tl.store(slope_table + own, by_slope, mask=known)
    sums = tl.where(value > 0, sums, sums * slopes[None, :])
    if ACCUMULATE:
        sums += tl.load(grad_state + to, mask=mask, other=0.0)
    tl.store(grad_state + to, sums, mask=mask)


@triton.jit
def cell_window_backward(
    gradient, products, factors, winners, grad_state,
    pixels, height, width, out_height, out_width, stride, first_out,
    CHANNELS: tl.constexpr, KIND: tl.constexpr, STRIDE: tl.constexpr, ACCUMULATE: tl.constexpr,
    PIXELS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Gradient of a state that is pooled, or normalised as it is: a gather as in the kernel before."""
    p, valid = own_indices(0, PIXELS, pixels)
    c, known = own_indices(1, LANES, CHANNELS)
    to = p.to(tl.int64)[:, None] * CHANNELS + c[None, :]
    mask = valid[:, None] & known[None, :]
    if KIND != NORMALIZE:
        n, y, x = pixel_of(p, height, width)
        sums = tl.zeros((PIXELS, LANES), tl.float32)
        for tap in range(9):
            dy = y + 1 - tap // 3
            dx = x + 1 - tap % 3
            oy = dy // STRIDE
            ox = dx // STRIDE
            inside = valid & (dy >= 0) & (dx >= 0) & (oy < out_height) & (ox < out_width)
            inside = inside & (oy * STRIDE == dy) & (ox * STRIDE == dx)
            row = row_of(n, oy, ox, out_height, out_width)
            dz = products_gradient(gradient, products, factors, row, inside, c, stride, first_out, CHANNELS)
            if KIND == MAX_POOL:
                at = winners + row[:, None] * CHANNELS + c[None, :]
                winner = tl.load(at, mask=inside[:, None] & known[None, :], other=-1)
                sums += tl.where(winner == tap, dz, 0.0)
            else:
                # Pixels of the window inside the map, in each direction.
                rows = tl.minimum(oy * STRIDE + 2, height) - tl.maximum(oy * STRIDE - 1, 0)
                columns = tl.minimum(ox * STRIDE + 2, width) - tl.maximum(ox * STRIDE - 1, 0)
                sums += dz / tl.where(inside, rows * columns, 1).to(tl.float32)[:, None]
    else:
        row = p.to(tl.int64)
        sums = products_gradient(gradient, products, factors, row, valid, c, stride, first_out, CHANNELS)
    if ACCUMULATE:
        sums += tl.load(grad_state + to, mask=mask, other=0.0)
    tl.store(grad_state + to, sums, mask=mask)
