"""Which elements a program has, shared by the Triton kernels."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def own_indices(axis: tl.constexpr, SIZE: tl.constexpr, end):
    """The SIZE indices of a program along an axis of the grid, and which of them lie before ``end``."""
    indices = tl.program_id(axis) * SIZE + tl.arange(0, SIZE)
    return indices, indices < end
