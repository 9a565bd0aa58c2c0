"""What the kernels of a cell share: places of pixels, filtered states, moments, gradients of products."""

from __future__ import annotations

import triton
import triton.language as tl

from pocketnet_fast.ops.cell.structure import Kind
from pocketnet_fast.ops.triton_numerics import prelu

MAX_POOL = tl.constexpr(int(Kind.MAX_POOL))
AVG_POOL = tl.constexpr(int(Kind.AVG_POOL))
NORMALIZE = tl.constexpr(int(Kind.NORMALIZE))
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
    state, slope, depthwise, n, y, x, valid, c, height, width, first_in,
    CHANNELS: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, OFFSET: tl.constexpr,
):  # fmt: skip
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
def run_of(run, tiles, pixels, PIXELS: tl.constexpr):
    """The first tile of a run, and the one after its last."""
    begin = run * tiles
    return begin, tl.minimum(begin + tiles, (pixels + PIXELS - 1) // PIXELS)


@triton.jit
def pixels_of(tile, pixels, PIXELS: tl.constexpr):
    """The pixels of a tile, and which of them are valid."""
    p = tile * PIXELS + tl.arange(0, PIXELS)
    return p, p < pixels


@triton.jit
def places_of(tile, pixels, height, width, PIXELS: tl.constexpr):
    """The pixels of a tile, which of them are valid, and their images, rows and columns."""
    p, valid = pixels_of(tile, pixels, PIXELS)
    n, y, x = pixel_of(p, height, width)
    return p, valid, n, y, x


@triton.jit
def counted(tile, begin, pixels, PIXELS: tl.constexpr):
    """How many pixels a tile has, and how many its run has before it."""
    return tl.minimum(pixels - tile * PIXELS, PIXELS).to(tl.float32), ((tile - begin) * PIXELS).to(tl.float64)


@triton.jit
def centre_of(mean, out, known, GIVEN: tl.constexpr):
    """What distances of channels are taken from: their mean where it is GIVEN, else 0."""
    centre = tl.zeros((out.shape[0],), tl.float32)
    if GIVEN:
        centre = tl.load(mean + out, mask=known, other=0.0).to(tl.float32)
    return centre


@triton.jit
def nothing_measured(mean, out, known, GIVEN: tl.constexpr):
    """What a run begins with: the centre, and the two sums of ``measured``."""
    zeros = tl.zeros((out.shape[0],), tl.float64)
    return centre_of(mean, out, known, GIVEN), zeros, zeros


@triton.jit
def keep_measured(table, run, out, known, first, second, OUT: tl.constexpr):
    """A run's row of ``table``, 2,runs,OUT."""
    tl.store(table + run * OUT + out, first, mask=known)
    tl.store(table + (tl.num_programs(0) + run) * OUT + out, second, mask=known)


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
    z, p, valid, count, seen, out, known, gradient, stride, first_out, centre, first, second,
    BACKWARD: tl.constexpr,
):  # fmt: skip
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
