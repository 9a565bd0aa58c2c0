"""The class blocks of the margin softmax in Triton; ``triton_launch`` prepares their arguments and runs them.

For ``rows`` e_n (N,D) and the columns w_j of ``kernel`` (D,classes), neither of unit length, with their
inverse lengths r_n and q_j; compare ``csrc/kernels/margin_cross_entropy/margin_cross_entropy.h``:

    z[n][j]          = scale * r_n * q_j * <e_n, w_j>
    forward          largest[n] = max_j z[n][j], total[n] = sum_j exp(z[n][j] - largest[n]), without the label
    g[n][j]          = weight[n] * exp(z[n][j] - shift[n]), 0 for the label
    row_sums[n]      = sum_j g[n][j] q_j w_j
    grad_kernel[j]   = q_j (sum_n g[n][j] r_n e_n - its part along w_j) + sum_(n: label n = j) label_terms[n]

Products take the elements as they are stored and accumulate in float32; lengths enter afterwards, so that
with bfloat16 only g is rounded, where it becomes the operand of a second product. ``PRECISION`` is the input
precision of ``tl.dot`` for float32. No two programs write the same element and each sums in a fixed order:
equal inputs on equal devices give equal bits. Logits exist for one tile at a time and are computed anew for
each output.

A matrix is passed between functions as a tuple (pointer, rows, columns, stride of rows, stride of columns).
"""

from __future__ import annotations

import triton
import triton.language as tl

from pocketnet_fast.ops.margin_cross_entropy.reference import EPSILON
from pocketnet_fast.ops.triton_numerics import product, rounded

ZERO_LENGTH = tl.constexpr(EPSILON)


@triton.jit
def _tile(matrix, row, column):
    """A tile of a matrix; zero outside it."""
    pointer, rows, columns, row_stride, column_stride = matrix
    at = row[:, None].to(tl.int64) * row_stride + column[None, :].to(tl.int64) * column_stride
    return tl.load(pointer + at, mask=(row[:, None] < rows) & (column[None, :] < columns), other=0.0)


@triton.jit
def _dots(embeddings, centres, n, c, DIMS: tl.constexpr, INNER: tl.constexpr, PRECISION: tl.constexpr):
    """<e_n, w_j> of a tile."""
    sums = tl.zeros((n.shape[0], c.shape[0]), tl.float32)
    for first in range(0, DIMS, INNER):
        d = first + tl.arange(0, INNER)
        e = _tile(embeddings, n, d)
        sums = product(e, _tile(centres, d, c).to(e.dtype), sums, PRECISION)
    return sums


@triton.jit
def _load(vector, at, end, other):
    return tl.load(vector + at, mask=at < end, other=other)


@triton.jit
def _samples(label, row_inverse, shift, weight, n, samples):
    """Label, inverse length, shift and weight of samples; those past the last have no label and no weight."""
    return (
        _load(label, n, samples, -1),
        _load(row_inverse, n, samples, 0.0),
        _load(shift, n, samples, 0.0),
        _load(weight, n, samples, 0.0),
    )


@triton.jit
def _split(classes_per_split, classes):
    """The program's split: its first class, and the one after its last."""
    begin = tl.program_id(1) * classes_per_split
    return begin, tl.minimum(begin + classes_per_split, classes)


@triton.jit
def _others_gradient(dots, r, q, label, shift, weight, c, end, scale):
    """``g`` of a tile; zero for the label and for classes from ``end`` on."""
    z = dots * (scale * r)[:, None] * q[None, :]
    others = (c[None, :] < end) & (c[None, :] != label[:, None])
    return tl.where(others, weight[:, None] * tl.exp(z - shift[:, None]), 0.0)


@triton.jit
def column_inverse_kernel(
    kernel, column_inverse,
    dims, classes, dim_stride, class_stride,
    CLASSES: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """Program i: 1 / length of tile i's columns; 0 of zero ones, NaN where the square is NaN or overflows."""
    centres = (kernel, dims, classes, dim_stride, class_stride)
    c = tl.program_id(0) * CLASSES + tl.arange(0, CLASSES)
    square = tl.zeros((CLASSES,), tl.float32)
    for first in range(0, dims, INNER):
        w = _tile(centres, first + tl.arange(0, INNER), c).to(tl.float32)
        square += tl.sum(w * w, 0)
    length = tl.sqrt_rn(square)
    positive = length > ZERO_LENGTH
    inverse = tl.where(positive, tl.div_rn(1.0, tl.where(positive, length, 1.0)), 0.0)
    inverse = tl.where(square < float("inf"), inverse, float("nan"))
    tl.store(column_inverse + c, inverse, mask=c < classes)


@triton.jit
def forward_kernel(
    rows, row_inverse, kernel, column_inverse, label, largest, total,
    samples, classes, dim_stride, class_stride, scale, classes_per_split,
    DIMS: tl.constexpr, SAMPLES: tl.constexpr, CLASSES: tl.constexpr, INNER: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Program (i, s): tile i's samples, split s's classes; ``largest`` and ``total`` are splits,N float32."""
    embeddings = (rows, samples, DIMS, DIMS, 1)
    centres = (kernel, DIMS, classes, dim_stride, class_stride)
    n = tl.program_id(0) * SAMPLES + tl.arange(0, SAMPLES)
    begin, end = _split(classes_per_split, classes)
    target = _load(label, n, samples, -1)
    factor = scale * _load(row_inverse, n, samples, 0.0)
    # Below every logit, and finite, so that a tile without any leaves no NaN.
    maximum = tl.zeros((SAMPLES,), tl.float32) - 2.0 * scale
    sums = tl.zeros((SAMPLES,), tl.float32)
    for first in range(begin, end, CLASSES):
        c = first + tl.arange(0, CLASSES)
        q = _load(column_inverse, c, end, 0.0)
        z = _dots(embeddings, centres, n, c, DIMS, INNER, PRECISION) * factor[:, None] * q[None, :]
        z = tl.where((c[None, :] < end) & (c[None, :] != target[:, None]), z, float("-inf"))
        raised = tl.maximum(maximum, tl.max(z, 1))
        sums = sums * tl.exp(maximum - raised) + tl.sum(tl.exp(z - raised[:, None]), 1)
        maximum = raised
    at = tl.program_id(1).to(tl.int64) * samples + n
    tl.store(largest + at, maximum, mask=n < samples)
    tl.store(total + at, sums, mask=n < samples)


@triton.jit
def grad_rows_kernel(
    rows, row_inverse, kernel, column_inverse, label, shift, weight, row_sums,
    samples, classes, dim_stride, class_stride, scale, classes_per_split,
    DIMS: tl.constexpr, SAMPLES: tl.constexpr, CLASSES: tl.constexpr, INNER: tl.constexpr,
    OUTER: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Program (i, s, k): tile i's samples, split s's classes, block k of dims; ``row_sums`` is splits,N,D."""
    embeddings = (rows, samples, DIMS, DIMS, 1)
    centres = (kernel, DIMS, classes, dim_stride, class_stride)
    n = tl.program_id(0) * SAMPLES + tl.arange(0, SAMPLES)
    begin, end = _split(classes_per_split, classes)
    d = tl.program_id(2) * OUTER + tl.arange(0, OUTER)
    target, r, z_shift, z_weight = _samples(label, row_inverse, shift, weight, n, samples)
    dtype: tl.constexpr = rows.dtype.element_ty
    sums = tl.zeros((SAMPLES, OUTER), tl.float32)
    for first in range(begin, end, CLASSES):
        c = first + tl.arange(0, CLASSES)
        q = _load(column_inverse, c, end, 0.0)
        dots = _dots(embeddings, centres, n, c, DIMS, INNER, PRECISION)
        g = _others_gradient(dots, r, q, target, z_shift, z_weight, c, end, scale) * q[None, :]
        w = _tile(centres, d, c).to(dtype)
        sums = product(rounded(g, dtype), tl.trans(w), sums, PRECISION)
    at = (tl.program_id(1).to(tl.int64) * samples + n[:, None]) * DIMS + d[None, :]
    tl.store(row_sums + at, sums, mask=(n[:, None] < samples) & (d[None, :] < DIMS))


@triton.jit
def grad_kernel_kernel(
    rows, row_inverse, kernel, column_inverse, label, shift, weight, label_terms, label_order, label_ends,
    grad_kernel,
    samples, classes, dim_stride, class_stride, scale,
    DIMS: tl.constexpr, SAMPLES: tl.constexpr, CLASSES: tl.constexpr, INNER: tl.constexpr,
    OUTER: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Program (i, k): tile i's classes, block k of dims; ``grad_kernel`` is D,classes without gaps.

    ``label_terms`` is N,D float32. The samples whose label lies in tile i are
    ``label_order[label_ends[i]:label_ends[i + 1]]``.
    """
    embeddings = (rows, samples, DIMS, DIMS, 1)
    centres = (kernel, DIMS, classes, dim_stride, class_stride)
    c = tl.program_id(0) * CLASSES + tl.arange(0, CLASSES)
    d = tl.program_id(1) * OUTER + tl.arange(0, OUTER)
    q = _load(column_inverse, c, classes, 0.0)
    dtype: tl.constexpr = rows.dtype.element_ty
    sums = tl.zeros((OUTER, CLASSES), tl.float32)
    along = tl.zeros((CLASSES,), tl.float32)
    for first in range(0, samples, SAMPLES):
        n = first + tl.arange(0, SAMPLES)
        target, r, z_shift, z_weight = _samples(label, row_inverse, shift, weight, n, samples)
        dots = _dots(embeddings, centres, n, c, DIMS, INNER, PRECISION)
        g = _others_gradient(dots, r, q, target, z_shift, z_weight, c, classes, scale)
        g = rounded(g * r[:, None], dtype)
        # <sum_n g r e, w>, of the rounded g: what is removed is what the product adds.
        along += tl.sum(g.to(tl.float32) * dots, 0)
        sums = product(tl.trans(_tile(embeddings, n, d)), g, sums, PRECISION)
    w = _tile(centres, d, c).to(tl.float32)
    gradient = (sums - w * q[None, :] * (q * along)[None, :]) * q[None, :]
    end = tl.load(label_ends + tl.program_id(0) + 1)
    for i in range(tl.load(label_ends + tl.program_id(0)), end):
        n = tl.load(label_order + i)
        terms = tl.load(label_terms + n * DIMS + d, mask=d < DIMS, other=0.0)
        gradient += tl.where(c[None, :] == tl.load(label + n), terms[:, None], 0.0)
    at = d[:, None].to(tl.int64) * classes + c[None, :]
    inside = (d[:, None] < DIMS) & (c[None, :] < classes)
    tl.store(grad_kernel + at, rounded(gradient, grad_kernel.dtype.element_ty), mask=inside)
