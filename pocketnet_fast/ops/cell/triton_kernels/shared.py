"""What the kernels of a cell share: places of pixels, filtered states, moments, gradients of products."""

from __future__ import annotations

import triton
import triton.language as tl

from pocketnet_fast.ops.triton_numerics import prelu

MAX_POOL = tl.constexpr(1)
AVG_POOL = tl.constexpr(2)
NORMALIZE = tl.constexpr(3)
RESIDUAL = tl.constexpr(1)
SCALED = tl.constexpr(2)


@triton.jit
def pixel_of(p, height, width):
    """Image, row and column of pixels."""
    return p // (height * width), (p // width) % height, p % width


@triton.jit
def row_of(n, y, x, height, width):
    """Index of pixels."""
    return (n.to(tl.int64) * height + y) * width + x


@triton.jit
def filtered_tile(
    state,
    slope,
    depthwise,
    n,
    y,
    x,
    valid,
    c,
    height,
    width,
    first_in,
    CHANNELS: tl.constexpr,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    OFFSET: tl.constexpr,
):
    """Depthwise convolution of the activated state: pixels x channels ``c``."""
    known = c < CHANNELS
    slopes = tl.load(slope + first_in + c, mask=known, other=0.0)
    filters = depthwise + (first_in + c) * (KERNEL * KERNEL)
    sums = tl.zeros((y.shape[0], c.shape[0]), tl.float32)
    for ky in range(KERNEL):
        sy = y * STRIDE + OFFSET + ky - KERNEL // 2
        row = valid & (sy >= 0) & (sy < height)
        for kx in tl.static_range(KERNEL):
            sx = x * STRIDE + (OFFSET + kx - KERNEL // 2)
            inside = (row & (sx >= 0) & (sx < width))[:, None] & known[None, :]
            at = row_of(n, sy, sx, height, width)[:, None] * CHANNELS + c[None, :]
            value = tl.load(state + at, mask=inside, other=0.0)
            weight = tl.load(filters + ky * KERNEL + kx, mask=known, other=0.0)
            sums += prelu(value, slopes[None, :]) * weight[None, :]
    return sums


@triton.jit
def _add_moments(z, valid, count, seen, mean, square):
    """Mean and squared distances of ``seen`` pixels and the ``count`` valid ones of a tile together."""
    middle = tl.sum(tl.where(valid[:, None], z, 0.0), 0) / count
    distance = tl.where(valid[:, None], z - middle[None, :], 0.0)
    rest = tl.sum(distance, 0).to(tl.float64)
    spread = tl.sum(distance * distance, 0).to(tl.float64) - rest * rest / count
    step = middle.to(tl.float64) + rest / count - mean
    part = (count / (seen + count.to(tl.float64))).to(tl.float64)
    return mean + step * part, square + spread + step * step * part * seen


@triton.jit
def _gradient_tile(gradient, p, valid, out, known, stride, first_out):
    at = p.to(tl.int64)[:, None] * stride + (first_out + out)[None, :]
    return tl.load(gradient + at, mask=valid[:, None] & known[None, :], other=0.0)


@triton.jit
def measured(
    z,
    p,
    valid,
    count,
    seen,
    out,
    known,
    gradient,
    stride,
    first_out,
    centre,
    first,
    second,
    BACKWARD: tl.constexpr,
):
    """A run's mean and squared distances with a tile added; BACKWARD, its sums of g and of g (z - centre)."""
    if BACKWARD:
        g = _gradient_tile(gradient, p, valid, out, known, stride, first_out)
        first += tl.sum(g, 0).to(tl.float64)
        second += tl.sum(g * (z - centre[None, :]), 0).to(tl.float64)
    else:
        first, second = _add_moments(z, valid, count, seen, first, second)
    return first, second


@triton.jit
def products_gradient(gradient, products, factors, row, valid, out, stride, first_out, OUT: tl.constexpr):
    """dz of pixels ``row`` and channels ``out``; zero outside."""
    known = out < OUT
    mask = valid[:, None] & known[None, :]
    g = tl.load(gradient + row[:, None] * stride + (first_out + out)[None, :], mask=mask, other=0.0)
    z = tl.load(products + row[:, None] * OUT + out[None, :], mask=mask, other=0.0)
    centre = tl.load(factors + out, mask=known, other=0.0)
    by_gradient = tl.load(factors + OUT + out, mask=known, other=0.0)
    by_product = tl.load(factors + 2 * OUT + out, mask=known, other=0.0)
    constant = tl.load(factors + 3 * OUT + out, mask=known, other=0.0)
    dz = by_gradient[None, :] * g + by_product[None, :] * (z - centre[None, :]) + constant[None, :]
    return tl.where(mask, dz, 0.0)
