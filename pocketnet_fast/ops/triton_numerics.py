"""Conversions and products that the interpreter would get wrong, shared by the Triton kernels."""

from __future__ import annotations

import triton
import triton.language as tl

# The interpreter multiplies the bit patterns of bfloat16, and truncates where it should round.
INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))


@triton.jit
def rounded(x, dtype: tl.constexpr):
    """``x``, float32, to the nearest of a type that may be narrower, ties to even."""
    if INTERPRETED and dtype == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        even = (bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000
        # The carry would make another number of some NaNs.
        x = tl.where(x - x == 0.0, even.to(tl.float32, bitcast=True), x)
    return x.to(dtype)


@triton.jit
def product(a, b, sums, PRECISION: tl.constexpr):
    """``sums + a @ b``; ``PRECISION`` is how ``tl.dot`` takes float32."""
    if INTERPRETED:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, sums, input_precision=PRECISION)


@triton.jit
def prelu(x, slope):
    """``x`` where it is positive, ``slope * x`` elsewhere."""
    return tl.where(x < 0, x * slope, x)
