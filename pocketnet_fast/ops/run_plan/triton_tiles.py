"""How much of a node one Triton program computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from triton import next_power_of_2

from pocketnet_fast.ops.triton_tuning import Tiles

_BLOCK: Final = 16
_DEPTHWISE: Final = 1
# Enough programs for a GPU of some 130 multiprocessors.
_PROGRAMS: Final = 256


@dataclass(frozen=True)
class Shape:
    """What a node's kernel is compiled for.

    Attributes:
        edges: Codes of its edges, 0 where there is none.
        out_blocks: Blocks of 16 channels of its output.
        height, width: The size of its output.
    """

    edges: tuple[int, ...]
    out_blocks: int
    height: int
    width: int

    @property
    def in_blocks(self) -> int:
        """The most blocks that an edge's state has."""
        return max(code // 16384 % 256 for code in self.edges if code)

    @property
    def depthwise(self) -> bool:
        """Whether an edge convolves depthwise."""
        return any(code and code % 8 == _DEPTHWISE for code in self.edges)


def tiles_for(shape: Shape, pixels: int, dtype: torch.dtype) -> Tiles:
    """The tiles of a node by rule, made for Hopper and not yet measured on a chip.

    Few pixels get small tiles, so that a single image still occupies the device; float32 products, which run
    on the ordinary units, get smaller ones than those of the tensor cores.

    Args:
        shape: The node.
        pixels: The pixels of all images.
        dtype: The type of states and matrices.
    """
    widest = 64 if dtype == torch.float32 else 128
    outer = min(widest, next_power_of_2(shape.out_blocks * _BLOCK))
    inner = min(32 if shape.depthwise else 64, next_power_of_2(shape.in_blocks * _BLOCK))
    columns = -(-shape.out_blocks * _BLOCK // outer)
    most = 64 if shape.depthwise or dtype == torch.float32 else 128
    rows = most
    while rows > 16 and -(-pixels // rows) * columns < _PROGRAMS:
        rows //= 2
    warps = max(1, min(4, rows * max(inner, outer) // 1024))
    return Tiles(rows, inner, outer, warps, 2)


def stem_tiles(out_blocks: int) -> Tiles:
    """The tiles of the stem, of ``out_blocks`` blocks of 16 channels."""
    return Tiles(64, 0, min(64, next_power_of_2(out_blocks * _BLOCK)), 4, 1)
