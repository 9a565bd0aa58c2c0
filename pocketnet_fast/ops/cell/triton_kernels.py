"""Training a cell in Triton; ``triton_launch`` prepares the arguments and runs the kernels.

The equations are those of ``csrc/kernels/cell/cell.h``: a sum adds normalised operations, ``scale * z +
shift`` with the moments of the batch, and from the sum's gradient ``g`` the gradient of an operation's
products ``z`` is, per channel,

    dz = by_gradient * g + by_product * (z - centre) + constant

A state, a gradient and products are ``[pixels][channels]`` without gaps, the pixels of all images one after
another. ``pixels`` counts those of what a kernel writes. All are float32, but for what a matrix product takes
(``filtered`` and its gradient), which has the type of the products; sums within a tile are float32 in any
case. A program goes through a run of tiles, and what it sums over them leaves it once, as its row of a table
of partial sums; no two programs write the same element, and tables are added up in a fixed order. So equal
inputs give equal bits on equal devices.

Moments are taken about the tile's own mean and combined in float64 (Chan, Golub and LeVeque, 1979): nothing
cancels where a mean is far from zero. The derivative of prelu is the slope where ``x`` is not positive; that
of a maximum belongs to the first pixel that has it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from pocketnet_fast.ops.triton_numerics import prelu, product, rounded

MAX_POOL = tl.constexpr(1)
AVG_POOL = tl.constexpr(2)
NORMALIZE = tl.constexpr(3)
RESIDUAL = tl.constexpr(1)
SCALED = tl.constexpr(2)


@triton.jit
def _pixel(p, height, width):
    """Image, row and column of pixels."""
    return p // (height * width), (p // width) % height, p % width


@triton.jit
def _row(n, y, x, height, width):
    """Index of pixels."""
    return (n.to(tl.int64) * height + y) * width + x


@triton.jit
def _filtered(
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
            at = _row(n, sy, sx, height, width)[:, None] * CHANNELS + c[None, :]
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
def _measure(
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
def products_kernel(
    parts,
    slope,
    depthwise,
    pointwise,
    filtered,
    products,
    gradient,
    mean,
    table,
    pixels,
    height,
    width,
    out_height,
    out_width,
    stride,
    first_out,
    tiles,
    CHANNELS: tl.constexpr,
    OUT: tl.constexpr,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    OFFSET: tl.constexpr,
    KEEP: tl.constexpr,
    BACKWARD: tl.constexpr,
    PIXELS: tl.constexpr,
    INNER: tl.constexpr,
    OUTER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """PReLU, depthwise, pointwise: run program_id(0), OUTER of OUT channels a program.

    ``parts`` are states of CHANNELS each. ``filtered`` is written where KEEP. ``table``, 2,runs,OUT float64,
    holds mean and squared distances of a run; BACKWARD, its sums of g and of g times (z - mean), where g is
    the OUT channels from ``first_out`` on of ``gradient``, which has ``stride`` channels.
    """
    IN: tl.constexpr = CHANNELS * len(parts)
    run = tl.program_id(0)
    out = tl.program_id(1) * OUTER + tl.arange(0, OUTER)
    known = out < OUT
    centre = tl.zeros((OUTER,), tl.float32)
    if BACKWARD:
        centre = tl.load(mean + out, mask=known, other=0.0).to(tl.float32)
    first = tl.zeros((OUTER,), tl.float64)
    second = tl.zeros((OUTER,), tl.float64)
    begin = run * tiles
    end = tl.minimum(begin + tiles, (pixels + PIXELS - 1) // PIXELS)
    for tile in range(begin, end):
        p = tile * PIXELS + tl.arange(0, PIXELS)
        valid = p < pixels
        n, y, x = _pixel(p, out_height, out_width)
        sums = tl.zeros((PIXELS, OUTER), tl.float32)
        for part in tl.static_range(len(parts)):
            for channel in range(0, CHANNELS, INNER):
                c = channel + tl.arange(0, INNER)
                value = _filtered(
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
        count = tl.minimum(pixels - tile * PIXELS, PIXELS).to(tl.float32)
        seen = ((tile - begin) * PIXELS).to(tl.float64)
        first, second = _measure(
            sums, p, valid, count, seen, out, known, gradient, stride, first_out, centre, first, second,
            BACKWARD,
        )  # fmt: skip
    tl.store(table + run * OUT + out, first, mask=known)
    tl.store(table + (tl.num_programs(0) + run) * OUT + out, second, mask=known)


@triton.jit
def window_kernel(
    state,
    products,
    winners,
    gradient,
    mean,
    table,
    pixels,
    height,
    width,
    out_height,
    out_width,
    stride,
    first_out,
    tiles,
    CHANNELS: tl.constexpr,
    KIND: tl.constexpr,
    STRIDE: tl.constexpr,
    CENTRED: tl.constexpr,
    BACKWARD: tl.constexpr,
    PIXELS: tl.constexpr,
    LANES: tl.constexpr,
):
    """Pools, or the state itself, whose products are not written; otherwise as ``products_kernel``.

    ``winners``, pixels x CHANNELS int8, is written for a maximum BACKWARD: which of the nine pixels has it.
    Not CENTRED, the centre is 0.
    """
    run = tl.program_id(0)
    c = tl.program_id(1) * LANES + tl.arange(0, LANES)
    known = c < CHANNELS
    centre = tl.zeros((LANES,), tl.float32)
    if CENTRED:
        centre = tl.load(mean + c, mask=known, other=0.0).to(tl.float32)
    first = tl.zeros((LANES,), tl.float64)
    second = tl.zeros((LANES,), tl.float64)
    begin = run * tiles
    end = tl.minimum(begin + tiles, (pixels + PIXELS - 1) // PIXELS)
    for tile in range(begin, end):
        p = tile * PIXELS + tl.arange(0, PIXELS)
        valid = p < pixels
        to = p.to(tl.int64)[:, None] * CHANNELS + c[None, :]
        mask = valid[:, None] & known[None, :]
        if KIND != NORMALIZE:
            n, y, x = _pixel(p, out_height, out_width)
            z = tl.zeros((PIXELS, LANES), tl.float32)
            winner = tl.full((PIXELS, LANES), -1, tl.int32)
            inside_window = tl.zeros((PIXELS,), tl.float32)
            for tap in range(9):
                sy = y * STRIDE + tap // 3 - 1
                sx = x * STRIDE + tap % 3 - 1
                inside = valid & (sy >= 0) & (sy < height) & (sx >= 0) & (sx < width)
                at = _row(n, sy, sx, height, width)[:, None] * CHANNELS + c[None, :]
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
        count = tl.minimum(pixels - tile * PIXELS, PIXELS).to(tl.float32)
        seen = ((tile - begin) * PIXELS).to(tl.float64)
        first, second = _measure(
            z, p, valid, count, seen, c, known, gradient, stride, first_out, centre, first, second, BACKWARD
        )
    tl.store(table + run * CHANNELS + c, first, mask=known)
    tl.store(table + (tl.num_programs(0) + run) * CHANNELS + c, second, mask=known)


@triton.jit
def _finish(
    z,
    products,
    p,
    valid,
    count,
    seen,
    c,
    gradient,
    stride,
    first_out,
    mean,
    first,
    second,
    CHANNELS: tl.constexpr,
    BACKWARD: tl.constexpr,
):
    """A tile of products is stored, and measured as ``_measure`` does it."""
    known = c < CHANNELS
    to = products + p.to(tl.int64)[:, None] * CHANNELS + c[None, :]
    tl.store(to, z, mask=valid[:, None] & known[None, :])
    # Read for each tile, which is cheap, so that it takes no registers in between.
    centre = tl.zeros((c.shape[0],), tl.float32)
    if BACKWARD:
        centre = tl.load(mean + c, mask=known, other=0.0).to(tl.float32)
    return _measure(
        z, p, valid, count, seen, c, known, gradient, stride, first_out, centre, first, second, BACKWARD
    )


@triton.jit
def _project(
    value,
    pointwise,
    filtered,
    products,
    p,
    valid,
    count,
    seen,
    c,
    gradient,
    stride,
    first_out,
    mean,
    first,
    second,
    CHANNELS: tl.constexpr,
    KEEP: tl.constexpr,
    BACKWARD: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``_finish`` for the products of a tile of the filtered state, which is stored where KEEP."""
    value = rounded(value, filtered.dtype.element_ty)
    if KEEP:
        to = filtered + p.to(tl.int64)[:, None] * CHANNELS + c[None, :]
        tl.store(to, value, mask=valid[:, None] & (c < CHANNELS)[None, :])
    known = (c < CHANNELS)[None, :] & (c < CHANNELS)[:, None]
    weight = tl.load(pointwise + c[None, :] * CHANNELS + c[:, None], mask=known, other=0.0)
    sums = tl.zeros((p.shape[0], c.shape[0]), tl.float32)
    sums = product(value, rounded(weight, value.dtype), sums, PRECISION)
    return _finish(
        sums, products, p, valid, count, seen, c, gradient, stride, first_out, mean, first, second,
        CHANNELS, BACKWARD,
    )  # fmt: skip


@triton.jit
def _keep_moments(table, run, c, first, second, CHANNELS: tl.constexpr):
    """A run's row of ``table``, 2,runs,CHANNELS."""
    tl.store(table + run * CHANNELS + c, first, mask=c < CHANNELS)
    tl.store(table + (tl.num_programs(0) + run) * CHANNELS + c, second, mask=c < CHANNELS)


@triton.jit
def mixed_kernel(  # noqa: PLR0915 - six operations, each with its registers
    state,
    slopes,
    depthwises,
    pointwises,
    filtered,
    products,
    winners,
    gradient,
    means,
    tables,
    pixels,
    height,
    width,
    out_height,
    out_width,
    stride,
    first_out,
    tiles,
    CHANNELS: tl.constexpr,
    STRIDE: tl.constexpr,
    BACKWARD: tl.constexpr,
    PIXELS: tl.constexpr,
    LANES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A mixed edge: what ``products_kernel`` and ``window_kernel`` make of one state, in one pass over it.

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
    first1, second1 = zeros, zeros
    first3, second3 = zeros, zeros
    first5, second5 = zeros, zeros
    first7, second7 = zeros, zeros
    first_max, second_max = zeros, zeros
    first_avg, second_avg = zeros, zeros
    begin = run * tiles
    end = tl.minimum(begin + tiles, (pixels + PIXELS - 1) // PIXELS)
    for tile in range(begin, end):
        p = tile * PIXELS + tl.arange(0, PIXELS)
        valid = p < pixels
        n, y, x = _pixel(p, out_height, out_width)
        filtered3 = tl.zeros((PIXELS, LANES), tl.float32)
        filtered5 = tl.zeros((PIXELS, LANES), tl.float32)
        filtered7 = tl.zeros((PIXELS, LANES), tl.float32)
        largest = tl.zeros((PIXELS, LANES), tl.float32)
        winner = tl.full((PIXELS, LANES), -1, tl.int32)
        total = tl.zeros((PIXELS, LANES), tl.float32)
        inside_window = tl.zeros((PIXELS,), tl.float32)
        # Unrolled, 49 taps of six operations would take the compiler minutes.
        for tap in range(49):
            ky = tap // 7 - 3
            kx = tap % 7 - 3
            sy = y * STRIDE + ky
            sx = x * STRIDE + kx
            inside = valid & (sy >= 0) & (sy < height) & (sx >= 0) & (sx < width)
            at = _row(n, sy, sx, height, width)[:, None] * CHANNELS + c[None, :]
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
        count = tl.minimum(pixels - tile * PIXELS, PIXELS).to(tl.float32)
        seen = ((tile - begin) * PIXELS).to(tl.float64)
        if BACKWARD:
            to = winners + p.to(tl.int64)[:, None] * CHANNELS + c[None, :]
            tl.store(to, winner.to(tl.int8), mask=valid[:, None] & known[None, :])
        first_max, second_max = _finish(
            largest, products[4], p, valid, count, seen, c, gradient, stride, first_out, means[4],
            first_max, second_max, CHANNELS, BACKWARD,
        )  # fmt: skip
        average = total / tl.maximum(inside_window, 1.0)[:, None]
        first_avg, second_avg = _finish(
            average, products[5], p, valid, count, seen, c, gradient, stride, first_out, means[5],
            first_avg, second_avg, CHANNELS, BACKWARD,
        )  # fmt: skip
        first3, second3 = _project(
            filtered3, pointwises[1], filtered[1], products[1], p, valid, count, seen, c,
            gradient, stride, first_out, means[1], first3, second3, CHANNELS, BACKWARD, BACKWARD, PRECISION,
        )  # fmt: skip
        first5, second5 = _project(
            filtered5, pointwises[2], filtered[2], products[2], p, valid, count, seen, c,
            gradient, stride, first_out, means[2], first5, second5, CHANNELS, BACKWARD, BACKWARD, PRECISION,
        )  # fmt: skip
        first7, second7 = _project(
            filtered7, pointwises[3], filtered[3], products[3], p, valid, count, seen, c,
            gradient, stride, first_out, means[3], first7, second7, CHANNELS, BACKWARD, BACKWARD, PRECISION,
        )  # fmt: skip
        filtered1 = _filtered(
            state, slopes[0], depthwises[0], n, y, x, valid, c, height, width, 0, CHANNELS, 1, STRIDE, 0
        )
        first1, second1 = _project(
            filtered1, pointwises[0], filtered[0], products[0], p, valid, count, seen, c,
            gradient, stride, first_out, means[0], first1, second1, CHANNELS, False, BACKWARD, PRECISION,
        )  # fmt: skip
    _keep_moments(tables[0], run, c, first1, second1, CHANNELS)
    _keep_moments(tables[1], run, c, first3, second3, CHANNELS)
    _keep_moments(tables[2], run, c, first5, second5, CHANNELS)
    _keep_moments(tables[3], run, c, first7, second7, CHANNELS)
    _keep_moments(tables[4], run, c, first_max, second_max, CHANNELS)
    _keep_moments(tables[5], run, c, first_avg, second_avg, CHANNELS)


@triton.jit
def moments_kernel(
    table,
    gamma,
    beta,
    mean,
    variance,
    vectors,
    runs,
    pixels,
    run_pixels,
    epsilon,
    OUT: tl.constexpr,
    RUNS: tl.constexpr,
    LANES: tl.constexpr,
):
    """Mean and variance of all runs, of ``run_pixels`` each but the last; ``vectors``: scale and shift."""
    c = tl.program_id(0) * LANES + tl.arange(0, LANES)
    known = c < OUT
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
def sum_kernel(
    terms,
    vectors,
    firsts,
    widths,
    result,
    pixels,
    CHANNELS: tl.constexpr,
    MODES: tl.constexpr,
    PIXELS: tl.constexpr,
    LANES: tl.constexpr,
):
    """A sum of ``terms``, each ``widths`` channels that go to those from ``firsts`` on.

    ``vectors``: of each term its scale and, one width later, its shift. MODES, two bits a term: RESIDUAL has
    neither, SCALED no shift.
    """
    p = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    c = tl.program_id(1) * LANES + tl.arange(0, LANES)
    inside = (p < pixels)[:, None]
    row = p.to(tl.int64)[:, None]
    sums = tl.zeros((PIXELS, LANES), tl.float32)
    for term in tl.static_range(len(terms)):
        own = c - firsts[term]
        known = (own >= 0) & (own < widths[term])
        value = tl.load(
            terms[term] + row * widths[term] + own[None, :], mask=inside & known[None, :], other=0.0
        )
        if MODES // 4**term % 4 != RESIDUAL:
            value = value * tl.load(vectors[term] + own, mask=known, other=0.0)[None, :]
            if MODES // 4**term % 4 != SCALED:
                value = value + tl.load(vectors[term] + widths[term] + own, mask=known, other=0.0)[None, :]
        sums += value
    tl.store(result + row * CHANNELS + c[None, :], sums, mask=inside & (c < CHANNELS)[None, :])


@triton.jit
def factors_kernel(
    table,
    gamma,
    mean,
    variance,
    factors,
    grad_gamma,
    grad_beta,
    runs,
    pixels,
    epsilon,
    OUT: tl.constexpr,
    RUNS: tl.constexpr,
    LANES: tl.constexpr,
):
    """Gradients of gamma and beta, and ``factors``: centre, by_gradient, by_product, constant, OUT each.

        dz = scale * (g - sum(g) / n - normal * sum(g * normal) / n),  normal = (z - mean) * inverse

    where z - mean is the distance from the centre plus what rounding took from that.
    """
    c = tl.program_id(0) * LANES + tl.arange(0, LANES)
    known = c < OUT
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
def _products_gradient(gradient, products, factors, row, valid, out, stride, first_out, OUT: tl.constexpr):
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


@triton.jit
def pointwise_weight_kernel(
    state,
    slope,
    depthwise,
    filtered,
    gradient,
    products,
    factors,
    table,
    pixels,
    height,
    width,
    out_height,
    out_width,
    stride,
    first_out,
    first_in,
    tiles,
    CHANNELS: tl.constexpr,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    STRIDE: tl.constexpr,
    OFFSET: tl.constexpr,
    KEPT: tl.constexpr,
    PIXELS: tl.constexpr,
    INNER: tl.constexpr,
    OUTER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Sums of dz * filtered over a run: ``table`` is runs,OUT,IN float32.

    Run program_id(0), OUTER x INNER of the channels a program. The filtered state, CHANNELS columns of IN
    from ``first_in`` on, is read where it was KEPT, or computed from ``state``, a kernel of 1.
    """
    out = tl.program_id(1) * OUTER + tl.arange(0, OUTER)
    c = tl.program_id(2) * INNER + tl.arange(0, INNER)
    sums = tl.zeros((OUTER, INNER), tl.float32)
    begin = tl.program_id(0) * tiles
    end = tl.minimum(begin + tiles, (pixels + PIXELS - 1) // PIXELS)
    for tile in range(begin, end):
        p = tile * PIXELS + tl.arange(0, PIXELS)
        valid = p < pixels
        row = p.to(tl.int64)
        if KEPT:
            at = filtered + row[:, None] * IN + (first_in + c)[None, :]
            value = tl.load(at, mask=valid[:, None] & (c < CHANNELS)[None, :], other=0.0)
        else:
            n, y, x = _pixel(p, out_height, out_width)
            value = _filtered(
                state, slope, depthwise, n, y, x, valid, c, height, width, first_in,
                CHANNELS, 1, STRIDE, OFFSET,
            )  # fmt: skip
            value = rounded(value, filtered.dtype.element_ty)
        dz = _products_gradient(gradient, products, factors, row, valid, out, stride, first_out, OUT)
        sums = product(tl.trans(rounded(dz, value.dtype)), value, sums, PRECISION)
    at = (tl.program_id(0) * OUT + out[:, None]) * IN + (first_in + c)[None, :]
    tl.store(table + at, sums, mask=(out < OUT)[:, None] & (c < CHANNELS)[None, :])


@triton.jit
def filtered_gradient_kernel(
    pointwise,
    gradient,
    products,
    factors,
    grad_filtered,
    pixels,
    stride,
    first_out,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    PIXELS: tl.constexpr,
    INNER: tl.constexpr,
    OUTER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """dz times the pointwise weights: PIXELS x INNER of ``grad_filtered``, pixels x IN, a program."""
    p = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    valid = p < pixels
    row = p.to(tl.int64)
    c = tl.program_id(1) * INNER + tl.arange(0, INNER)
    dtype: tl.constexpr = grad_filtered.dtype.element_ty
    sums = tl.zeros((PIXELS, INNER), tl.float32)
    for first in range(0, OUT, OUTER):
        out = first + tl.arange(0, OUTER)
        dz = _products_gradient(gradient, products, factors, row, valid, out, stride, first_out, OUT)
        at = pointwise + out[:, None] * IN + c[None, :]
        weight = tl.load(at, mask=(out < OUT)[:, None] & (c < IN)[None, :], other=0.0)
        sums = product(rounded(dz, dtype), rounded(weight, dtype), sums, PRECISION)
    to = grad_filtered + row[:, None] * IN + c[None, :]
    tl.store(to, rounded(sums, dtype), mask=valid[:, None] & (c < IN)[None, :])


@triton.jit
def depthwise_gradient_kernel(
    state,
    slope,
    depthwise,
    grad_filtered,
    grad_state,
    slope_table,
    depthwise_table,
    pixels,
    height,
    width,
    out_height,
    out_width,
    first_in,
    CHANNELS: tl.constexpr,
    IN: tl.constexpr,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    OFFSET: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    PIXELS: tl.constexpr,
    LANES: tl.constexpr,
):
    """Gradient of a state: each of its pixels gathers from the outputs that read it.

    PIXELS x LANES a program; ``slope_table`` is programs,IN and ``depthwise_table`` programs,IN,KERNEL^2,
    float32. The state's CHANNELS are those of IN from ``first_in`` on. Where ACCUMULATE, ``grad_state`` is
    added to.
    """
    tile = tl.program_id(0)
    p = tile * PIXELS + tl.arange(0, PIXELS)
    valid = p < pixels
    n, y, x = _pixel(p, height, width)
    c = tl.program_id(1) * LANES + tl.arange(0, LANES)
    known = c < CHANNELS
    inner = first_in + c
    own = tile.to(tl.int64) * IN + inner
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
        at = _row(n, oy, ox, out_height, out_width)[:, None] * IN + inner[None, :]
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
def window_gradient_kernel(
    gradient,
    products,
    factors,
    winners,
    grad_state,
    pixels,
    height,
    width,
    out_height,
    out_width,
    stride,
    first_out,
    CHANNELS: tl.constexpr,
    KIND: tl.constexpr,
    STRIDE: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    PIXELS: tl.constexpr,
    LANES: tl.constexpr,
):
    """Gradient of a state that is pooled, or normalised as it is: a gather as in the kernel before."""
    p = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    valid = p < pixels
    c = tl.program_id(1) * LANES + tl.arange(0, LANES)
    known = c < CHANNELS
    to = p.to(tl.int64)[:, None] * CHANNELS + c[None, :]
    mask = valid[:, None] & known[None, :]
    if KIND != NORMALIZE:
        n, y, x = _pixel(p, height, width)
        sums = tl.zeros((PIXELS, LANES), tl.float32)
        for tap in range(9):
            dy = y + 1 - tap // 3
            dx = x + 1 - tap % 3
            oy = dy // STRIDE
            ox = dx // STRIDE
            inside = valid & (dy >= 0) & (dx >= 0) & (oy < out_height) & (ox < out_width)
            inside = inside & (oy * STRIDE == dy) & (ox * STRIDE == dx)
            row = _row(n, oy, ox, out_height, out_width)
            dz = _products_gradient(gradient, products, factors, row, inside, c, stride, first_out, CHANNELS)
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
        sums = _products_gradient(gradient, products, factors, row, valid, c, stride, first_out, CHANNELS)
    if ACCUMULATE:
        sums += tl.load(grad_state + to, mask=mask, other=0.0)
    tl.store(grad_state + to, sums, mask=mask)
