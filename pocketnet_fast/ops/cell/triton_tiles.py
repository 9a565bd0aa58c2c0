"""How much one program of a training kernel computes."""

from __future__ import annotations

from typing import Final

import torch
from triton import next_power_of_2

from pocketnet_fast.ops.triton_tuning import Tiles

# Values of a tile, and warps, of the kernels that divide channels into lanes. A mixed edge holds six such
# tiles at once: with more than eight values a thread most of them would not fit the registers.
_VALUES: Final = {"depthwise_gradient": (8192, 8), "mixed": (2048, 8)}
_DEFAULT_VALUES: Final = (4096, 4)

MOST_MIXED: Final = 64
"""Channels up to which a mixed edge runs in one kernel: its filtered states lie in registers together."""


def _padded(channels: int, most: int) -> int:
    return min(most, max(16, next_power_of_2(channels)))


def product_tiles(kernel: str, channels_in: int, channels_out: int, dtype: torch.dtype) -> Tiles:
    """The tiles of a kernel with a matrix product by rule, made for Hopper and not yet measured on a chip.

    Args:
        kernel: ``"products"``, ``"pointwise_weight"`` or ``"filtered_gradient"``.
        channels_in: The channels of the product's smaller operand: of one state.
        channels_out: The channels of the operation's result.
        dtype: The type of the operands.
    """
    widest = 64 if dtype == torch.float32 else 128
    most = {"products": 32, "pointwise_weight": 64, "filtered_gradient": widest}[kernel]
    inner, outer = _padded(channels_in, most), _padded(channels_out, 64 if kernel != "products" else widest)
    rows = 64 if max(inner, outer) > 32 else 128
    return Tiles(rows, inner, outer, 4, 2)


def lane_tiles(kernel: str, channels: int) -> Tiles:
    """Likewise of ``"window"``, ``"window_gradient"``, ``"depthwise_gradient"``, ``"sum"``, ``"mixed"``.

    All channels of a mixed edge, at most ``MOST_MIXED``, are in one program.
    """
    lanes = _padded(channels, MOST_MIXED if kernel == "mixed" else 32)
    values, warps = _VALUES.get(kernel, _DEFAULT_VALUES)
    return Tiles(values // lanes, 0, lanes, warps, 1)
