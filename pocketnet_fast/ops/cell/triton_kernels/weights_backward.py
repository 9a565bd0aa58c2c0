"""The gradients of what follows the products, of pointwise weights, and of filtered states."""

from __future__ import annotations

import triton
import triton.language as tl

from pocketnet_fast.ops.cell.triton_kernels.shared import (
    filtered_tile,
    pixel_of,
    pixels_of,
    products_gradient,
    run_of,
)
from pocketnet_fast.ops.triton_numerics import product, rounded
from pocketnet_fast.ops.triton_places import own_indices


@triton.jit
def cell_factors_backward(
    table, gamma, mean, variance, factors, grad_gamma, grad_beta,
    runs, pixels, epsilon,
    OUT: tl.constexpr, RUNS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Gradients of gamma and beta, and ``factors``: centre, by_gradient, by_product, constant, OUT each.

        dz = scale * (g - sum(g) / n - normal * sum(g * normal) / n),  normal = (z - mean) * inverse

    where z - mean is the distance from the centre plus what rounding took from that.
    """
    c, known = own_indices(0, LANES, OUT)
    total = tl.zeros((LANES,), tl.float64)
    by_distance = tl.zeros((LANES,), tl.float64)
    for begin in range(0, runs, RUNS):
        run = begin + tl.arange(0, RUNS)
        mask = (run < runs)[:, None] & known[None, :]
        at = table + run[:, None] * OUT + c[None, :]
        total += tl.sum(tl.load(at, mask=mask, other=0.0), 0)
        by_distance += tl.sum(tl.load(at + runs * OUT, mask=mask, other=0.0), 0)
    count = tl.cast(pixels, tl.float64)
    middle = tl.load(mean + c, mask=known, other=0.0)
    centre = middle.to(tl.float32)
    rounding = centre.to(tl.float64) - middle
    inverse = 1.0 / tl.sqrt(tl.load(variance + c, mask=known, other=1.0) + epsilon)
    scale = tl.load(gamma + c, mask=known, other=0.0).to(tl.float64) * inverse
    by_normal = inverse * (by_distance + total * rounding)
    by_product = -scale * by_normal / count * inverse
    constant = by_product * rounding - scale * total / count
    tl.store(grad_gamma + c, by_normal.to(tl.float32), mask=known)
    tl.store(grad_beta + c, total.to(tl.float32), mask=known)
    tl.store(factors + c, centre, mask=known)
    tl.store(factors + OUT + c, scale.to(tl.float32), mask=known)
    tl.store(factors + 2 * OUT + c, by_product.to(tl.float32), mask=known)
    tl.store(factors + 3 * OUT + c, constant.to(tl.float32), mask=known)


@triton.jit
def cell_pointwise_backward(
    state, slope, depthwise, filtered, gradient, products, factors, table,
    pixels, height, width, out_height, out_width, stride, first_out, first_in, tiles,
    CHANNELS: tl.constexpr, IN: tl.constexpr, OUT: tl.constexpr, STRIDE: tl.constexpr, OFFSET: tl.constexpr,
    KEPT: tl.constexpr, PIXELS: tl.constexpr, INNER: tl.constexpr, OUTER: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Sums of dz * filtered over a run: ``table`` is runs,OUT,IN float32.

    Run program_id(0), OUTER x INNER of the channels a program. The filtered state, CHANNELS columns of IN
    from ``first_in`` on, is read where it was KEPT, or computed from ``state``, a kernel of 1.
    """
    out, out_known = own_indices(1, OUTER, OUT)
    c, known = own_indices(2, INNER, CHANNELS)
    sums = tl.zeros((OUTER, INNER), tl.float32)
    begin, end = run_of(tl.program_id(0), tiles, pixels, PIXELS)
    for tile in range(begin, end):
        p, valid = pixels_of(tile, pixels, PIXELS)
        row = p.to(tl.int64)
        if KEPT:
            at = filtered + row[:, None] * IN + (first_in + c)[None, :]
            value = tl.load(at, mask=valid[:, None] & known[None, :], other=0.0)
        else:
            n, y, x = pixel_of(p, out_height, out_width)
            value = filtered_tile(
                state, slope, depthwise, n, y, x, valid, c, height, width, first_in,
                CHANNELS, 1, STRIDE, OFFSET,
            )  # fmt: skip
            value = rounded(value, filtered.dtype.element_ty)
        dz = products_gradient(gradient, products, factors, row, valid, out, stride, first_out, OUT)
        sums = product(tl.trans(rounded(dz, value.dtype)), value, sums, PRECISION)
    at = (tl.program_id(0) * OUT + out[:, None]) * IN + (first_in + c)[None, :]
    tl.store(table + at, sums, mask=out_known[:, None] & known[None, :])


@triton.jit
def cell_filtered_backward(
    pointwise, gradient, products, factors, grad_filtered,
    pixels, stride, first_out,
    IN: tl.constexpr, OUT: tl.constexpr, PIXELS: tl.constexpr, INNER: tl.constexpr, OUTER: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """dz times the pointwise weights: PIXELS x INNER of ``grad_filtered``, pixels x IN, a program."""
    p, valid = own_indices(0, PIXELS, pixels)
    row = p.to(tl.int64)
    c, known = own_indices(1, INNER, IN)
    dtype: tl.constexpr = grad_filtered.dtype.element_ty
    sums = tl.zeros((PIXELS, INNER), tl.float32)
    for first in range(0, OUT, OUTER):
        out = first + tl.arange(0, OUTER)
        dz = products_gradient(gradient, products, factors, row, valid, out, stride, first_out, OUT)
        at = pointwise + out[:, None] * IN + c[None, :]
        weight = tl.load(at, mask=(out < OUT)[:, None] & known[None, :], other=0.0)
        sums = product(rounded(dz, dtype), rounded(weight, dtype), sums, PRECISION)
    to = grad_filtered + row[:, None] * IN + c[None, :]
    tl.store(to, rounded(sums, dtype), mask=valid[:, None] & known[None, :])
