"""The steps of a lowered network in Triton; ``triton_launch`` decodes the program and runs them.

The equations are those of ``csrc/kernels/*/*.h``, the layouts those of the program: a state is blocks of 16
channels x height x width x 16, one after another in the arena of its image, whose elements are float32,
bfloat16 or float16. Sums are float32 throughout. ``constants`` are the program's float32 weights,
``matrices`` the same in the arena's type, which the products take. No two programs of a launch write the same
element, and none reads what another one writes.

What an edge does is a number known when compiling, its fields as ``triton_launch.edge_code`` packs them;
where it reads is in ``table``, seven words a part (see there).
"""

from __future__ import annotations

import triton
import triton.language as tl

from pocketnet_fast.ops.triton_numerics import prelu, product, rounded
from pocketnet_fast.ops.triton_places import own_indices

POINTWISE = tl.constexpr(0)
DEPTHWISE = tl.constexpr(1)
MAX_POOL = tl.constexpr(2)
AVG_POOL = tl.constexpr(3)
IDENTITY = tl.constexpr(4)
PART_WORDS = tl.constexpr(7)


@triton.jit
def _place(channel, height, width, y, x):
    """Offset of pixels (rows) and channels (columns) in a state."""
    block = (channel // 16)[None, :]
    return ((block * height + y[:, None]) * width + x[:, None]) * 16 + (channel % 16)[None, :]


@triton.jit
def _own_pixels(pixels, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, PIXELS: tl.constexpr):
    """Image, row and column of the program's pixels, and which of them are valid."""
    p, valid = own_indices(0, PIXELS, pixels)
    return (p // (HEIGHT * WIDTH)).to(tl.int64), (p // WIDTH) % HEIGHT, p % WIDTH, valid


@triton.jit
def _biases(bias, c, known, ROWS: tl.constexpr):
    """What the sums of ROWS rows begin with."""
    shift = tl.load(bias + c, mask=known, other=0.0)
    return tl.zeros((ROWS, c.shape[0]), tl.float32) + shift[None, :]


@triton.jit
def _store(arena, base, sums, c, known, valid, height, width, y, x):
    """Sums go to their places in a state that begins at ``base``."""
    place = base + _place(c, height, width, y, x)
    value = rounded(sums, arena.dtype.element_ty)
    tl.store(arena + place, value, mask=valid[:, None] & known[None, :])


@triton.jit
def stem_kernel(
    images, constants, arena, weights, bias, norm, output,
    pixels, image, image_stride, row_stride, column_stride, colour_stride,
    IMAGE_HEIGHT: tl.constexpr, IMAGE_WIDTH: tl.constexpr,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr,
    UINT8: tl.constexpr, BGR: tl.constexpr, MIRRORED: tl.constexpr,
    PIXELS: tl.constexpr, OUTER: tl.constexpr,
):  # fmt: skip
    """3x3 convolution of stride 2 from the pixels, PIXELS outputs of OUTER channels a program."""
    n, y, x, valid = _own_pixels(pixels, HEIGHT, WIDTH, PIXELS)
    c, known = own_indices(1, OUTER, CHANNELS)
    sums = _biases(constants + bias, c, known, PIXELS)
    for ky in tl.static_range(3):
        for colour in tl.static_range(3):
            for kx in tl.static_range(3):
                sy = 2 * y + (ky - 1)
                sx = 2 * x + (kx - 1)
                inside = valid & (sy >= 0) & (sy < IMAGE_HEIGHT) & (sx >= 0) & (sx < IMAGE_WIDTH)
                column = IMAGE_WIDTH - 1 - sx if MIRRORED else sx
                plane = 2 - colour if BGR else colour
                at = n * image_stride + sy * row_stride + column * column_stride + plane * colour_stride
                value = tl.load(images + at, mask=inside, other=0).to(tl.float32)
                if UINT8:
                    mean = tl.load(constants + norm + colour)
                    value = tl.where(inside, (value - mean) * tl.load(constants + norm + 3 + colour), 0.0)
                tap = (ky * 3 + colour) * 3 + kx
                weight = tl.load(
                    constants + weights + ((c // 16) * 27 + tap) * 16 + c % 16, mask=known, other=0.0
                )
                sums += value[:, None] * weight[None, :]
    _store(arena, n[:, None] * image + output, sums, c, known, valid, HEIGHT, WIDTH, y, x)


@triton.jit
def _window(
    arena, base, constants, depthwise, slope, c, valid, y, x, height, width,
    BLOCKS: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, PIXELS: tl.constexpr,
    INNER: tl.constexpr,
):  # fmt: skip
    """Depthwise convolution of the activated state: PIXELS x INNER sums."""
    sums = tl.zeros((PIXELS, INNER), tl.float32)
    known = c < BLOCKS * 16
    for ky in range(KERNEL):
        sy = y * STRIDE + ky - KERNEL // 2
        row = valid & (sy >= 0) & (sy < height)
        for kx in tl.static_range(KERNEL):
            sx = x * STRIDE + (kx - KERNEL // 2)
            inside = (row & (sx >= 0) & (sx < width))[:, None] & known[None, :]
            value = tl.load(arena + base + _place(c, height, width, sy, sx), mask=inside, other=0.0)
            tap = ky * KERNEL + kx
            at = depthwise + ((c // 16) * (KERNEL * KERNEL) + tap) * 16 + c % 16
            weight = tl.load(constants + at, mask=known, other=0.0)
            sums += prelu(value.to(tl.float32), slope[None, :]) * weight[None, :]
    return sums


@triton.jit
def _pooled(
    arena, base, c, known, valid, y, x, height, width,
    KIND: tl.constexpr, STRIDE: tl.constexpr, PIXELS: tl.constexpr, OUTER: tl.constexpr,
):  # fmt: skip
    """3x3 pooling with padding 1; averages count only pixels inside the state."""
    largest = tl.full((PIXELS, OUTER), float("-inf"), tl.float32)
    sums = tl.zeros((PIXELS, OUTER), tl.float32)
    count = tl.zeros((PIXELS,), tl.float32)
    for ky in range(3):
        sy = y * STRIDE + ky - 1
        for kx in tl.static_range(3):
            sx = x * STRIDE + (kx - 1)
            inside = valid & (sy >= 0) & (sy < height) & (sx >= 0) & (sx < width)
            mask = inside[:, None] & known[None, :]
            value = tl.load(arena + base + _place(c, height, width, sy, sx), mask=mask, other=0.0)
            value = value.to(tl.float32)
            if KIND == MAX_POOL:
                value = tl.where(mask, value, float("-inf"))
                largest = tl.maximum(largest, value, propagate_nan=tl.PropagateNan.ALL)
            else:
                sums += value
                count += tl.where(inside, 1.0, 0.0)
    if KIND == MAX_POOL:
        return tl.where(valid[:, None] & known[None, :], largest, 0.0)
    return sums / tl.maximum(count, 1.0)[:, None]


@triton.jit
def _edge(
    sums, arena, constants, matrices, table, n, valid, y, x, out, image,
    CODE: tl.constexpr, OUT_BLOCKS: tl.constexpr, PIXELS: tl.constexpr, INNER: tl.constexpr,
    OUTER: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``sums``, PIXELS x OUTER, with an edge's terms added."""
    KIND: tl.constexpr = CODE % 8
    KERNEL: tl.constexpr = CODE // 8 % 8
    STRIDE: tl.constexpr = CODE // 64 % 4
    SHIFT: tl.constexpr = CODE // 256 % 2
    PARTS: tl.constexpr = CODE // 512 % 32
    BLOCKS: tl.constexpr = CODE // 16384 % 256
    FIRST: tl.constexpr = CODE // 4194304 % 256
    COUNT: tl.constexpr = CODE // 1073741824
    for part in tl.static_range(PARTS):
        source = tl.load(table + part * PART_WORDS)
        height = tl.load(table + part * PART_WORDS + 1)
        width = tl.load(table + part * PART_WORDS + 2)
        base = (n * image + source)[:, None]
        if KIND <= DEPTHWISE:
            slopes = tl.load(table + part * PART_WORDS + 3)
            depthwise = tl.load(table + part * PART_WORDS + 4)
            pointwise = tl.load(table + part * PART_WORDS + 5)
            to = out - FIRST * 16
            wanted = (to >= 0) & (to < COUNT * 16)
            for first in range(0, BLOCKS * 16, INNER):
                c = first + tl.arange(0, INNER)
                known = c < BLOCKS * 16
                slope = tl.load(constants + slopes + c, mask=known, other=0.0)
                if KIND == DEPTHWISE:
                    value = _window(
                        arena, base, constants, depthwise, slope, c, valid, y, x, height, width,
                        BLOCKS, KERNEL, STRIDE, PIXELS, INNER,
                    )  # fmt: skip
                else:
                    sy = y * STRIDE + SHIFT
                    sx = x * STRIDE + SHIFT
                    inside = (valid & (sy < height) & (sx < width))[:, None] & known[None, :]
                    value = tl.load(arena + base + _place(c, height, width, sy, sx), mask=inside, other=0.0)
                    value = prelu(value.to(tl.float32), slope[None, :])
                row = (c // 16)[:, None] * 256 + (c % 16)[:, None] * 16
                at = pointwise + (to // 16)[None, :] * (BLOCKS * 256) + row + (to % 16)[None, :]
                weight = tl.load(matrices + at, mask=known[:, None] & wanted[None, :], other=0.0)
                sums = product(rounded(value, weight.dtype), weight, sums, PRECISION)
        else:
            known = out < OUT_BLOCKS * 16
            if KIND == IDENTITY:
                mask = valid[:, None] & known[None, :]
                value = tl.load(arena + base + _place(out, height, width, y, x), mask=mask, other=0.0)
                sums += value.to(tl.float32)
            else:
                scales = tl.load(table + part * PART_WORDS + 6)
                scale = tl.load(constants + scales + out, mask=known, other=0.0)
                value = _pooled(
                    arena, base, out, known, valid, y, x, height, width, KIND, STRIDE, PIXELS, OUTER
                )
                sums += value * scale[None, :]
    return sums


@triton.jit
def node_kernel(
    arena, constants, matrices, table, first_word, bias, output,
    pixels, image,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, OUT_BLOCKS: tl.constexpr,
    EDGE0: tl.constexpr, EDGE1: tl.constexpr, EDGE2: tl.constexpr, EDGE3: tl.constexpr,
    PIXELS: tl.constexpr, INNER: tl.constexpr, OUTER: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A sum of edges, PIXELS of its pixels and OUTER of its channels a program."""
    n, y, x, valid = _own_pixels(pixels, HEIGHT, WIDTH, PIXELS)
    out, known = own_indices(1, OUTER, OUT_BLOCKS * 16)
    sums = _biases(constants + bias, out, known, PIXELS)
    table += first_word
    EDGES: tl.constexpr = (EDGE0, EDGE1, EDGE2, EDGE3)
    for edge in tl.static_range(len(EDGES)):
        if EDGES[edge] != 0:
            sums = _edge(
                sums, arena, constants, matrices, table, n, valid, y, x, out, image,
                EDGES[edge], OUT_BLOCKS, PIXELS, INNER, OUTER, PRECISION,
            )  # fmt: skip
            table += (EDGES[edge] // 512 % 32) * PART_WORDS
    _store(arena, n[:, None] * image + output, sums, out, known, valid, HEIGHT, WIDTH, y, x)


@triton.jit
def global_depthwise_kernel(
    arena, constants, source, output, slope, weights, bias, image,
    BLOCKS: tl.constexpr, AREA: tl.constexpr, PADDED_AREA: tl.constexpr,
):  # fmt: skip
    """Depthwise convolution over the whole state, a block of one image a program."""
    block = tl.program_id(1)
    base = tl.program_id(0).to(tl.int64) * image
    lane = tl.arange(0, 16)
    pixel = tl.arange(0, PADDED_AREA)
    inside = (pixel < AREA)[:, None] & (lane < 16)[None, :]
    at = (block * AREA + pixel[:, None]) * 16 + lane[None, :]
    value = tl.load(arena + base + source + at, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(constants + weights + at, mask=inside, other=0.0)
    slopes = tl.load(constants + slope + block * 16 + lane)
    sums = tl.sum(prelu(value, slopes[None, :]) * weight, 0)
    sums += tl.load(constants + bias + block * 16 + lane)
    place = arena + base + output + block * 16 + lane
    tl.store(place, rounded(sums, arena.dtype.element_ty))


@triton.jit
def linear_kernel(
    arena, constants, matrices, result, source, weights, bias, images, image,
    EMBEDDING: tl.constexpr, FEATURES: tl.constexpr, ADD: tl.constexpr, ROWS: tl.constexpr,
    INNER: tl.constexpr, OUTER: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The projection, ROWS images and OUTER dimensions a program; added to ``result`` or stored there."""
    n, valid = own_indices(0, ROWS, images)
    out, known = own_indices(1, OUTER, EMBEDDING)
    sums = _biases(constants + bias, out, known, ROWS)
    for first in range(0, FEATURES, INNER):
        k = first + tl.arange(0, INNER)
        inside = k < FEATURES
        row = arena + n.to(tl.int64)[:, None] * image + source
        value = tl.load(row + k[None, :], mask=valid[:, None] & inside[None, :], other=0.0)
        at = weights + ((out // 16)[None, :] * FEATURES + k[:, None]) * 16 + (out % 16)[None, :]
        weight = tl.load(matrices + at, mask=inside[:, None] & known[None, :], other=0.0)
        sums = product(value, weight, sums, PRECISION)
    place = result + n[:, None] * EMBEDDING + out[None, :]
    mask = valid[:, None] & known[None, :]
    if ADD:
        sums += tl.load(place, mask=mask, other=0.0)
    tl.store(place, sums, mask=mask)
