"""Weights as the kernels read them: in blocks of 16 channels, the same for every instruction set."""

from __future__ import annotations

import numpy as np
import torch

from pocketnet_fast.lowering.plan import BLOCK, blocks_of


def _pad(array: np.ndarray, axis: int) -> np.ndarray:
    short = blocks_of(array.shape[axis]) * BLOCK - array.shape[axis]
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, short)
    return np.pad(array, widths)


def pack_vector(vector: np.ndarray) -> np.ndarray:
    """C to blocks x 16."""
    return _pad(vector, 0)


def to_bf16(array: np.ndarray) -> torch.Tensor:
    """An array as bfloat16 holds it."""
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(torch.bfloat16)


def pair_words(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Two arrays, rounded to bfloat16, as the lower and the upper halves of words, seen as float32."""

    def halves(array: np.ndarray) -> np.ndarray:
        return to_bf16(array).view(torch.int16).numpy().view(np.uint16).astype(np.uint32)

    return (halves(low) | halves(high) << 16).view(np.float32)


def pack_pointwise(weight: np.ndarray) -> np.ndarray:
    """C_out x C_in to out_blocks x in_blocks x 16 (in) x 16 (out)."""
    padded = _pad(_pad(weight, 0), 1)
    out_blocks, in_blocks = padded.shape[0] // BLOCK, padded.shape[1] // BLOCK
    return padded.reshape(out_blocks, BLOCK, in_blocks, BLOCK).transpose(0, 2, 3, 1)


def pack_pointwise_pairs(weight: np.ndarray) -> np.ndarray:
    """C_out x C_in to out_blocks x in_blocks x 8 (in) x 16 (out) words of two input channels."""
    packed = pack_pointwise(weight)
    return pair_words(packed[:, :, 0::2], packed[:, :, 1::2])


def pack_depthwise(weight: np.ndarray) -> np.ndarray:
    """C x k x k to blocks x k*k x 16."""
    padded = _pad(weight.reshape(weight.shape[0], -1), 0)
    return padded.reshape(-1, BLOCK, padded.shape[1]).transpose(0, 2, 1)


def pack_depthwise_pairs(weight: np.ndarray) -> np.ndarray:
    """C x k x k to blocks x (k + 1) / 2 x k x 16 words of two taps of a column.

    The last tap of a column is the upper half of its word, with a zero below.
    """
    kernel = weight.shape[1]
    packed = pack_depthwise(weight).reshape(-1, kernel, kernel, BLOCK)
    upper, last = packed[:, 1::2], packed[:, -1:]
    lower = np.concatenate([packed[:, : kernel - 1 : 2], np.zeros_like(last)], 1)
    return pair_words(lower, np.concatenate([upper, last], 1))


def pack_stem(weight: np.ndarray) -> np.ndarray:
    """C_out x 3 (colour) x 3 (ky) x 3 (kx) to blocks x ky x colour x kx x 16."""
    padded = _pad(weight, 0)
    return padded.reshape(-1, BLOCK, 3, 3, 3).transpose(0, 3, 2, 4, 1)


def pack_linear(weight: np.ndarray) -> np.ndarray:
    """N x K to out_blocks x K (padded to a multiple of 16) x 16."""
    padded = _pad(_pad(weight, 0), 1)
    return padded.reshape(-1, BLOCK, padded.shape[1]).transpose(0, 2, 1)


class WeightStore:
    """Collects packed constants; each starts on a multiple of 16 floats."""

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []
        self._size = 0

    def add(self, array: np.ndarray) -> int:
        """Append ``array`` (rounded to float32) and return its offset in floats."""
        flat = _pad(np.ascontiguousarray(array, dtype=np.float32).reshape(-1), 0)
        offset = self._size
        self._parts.append(flat)
        self._size += flat.size
        return offset

    def finish(self) -> np.ndarray:
        """All constants as one float32 vector."""
        return np.concatenate(self._parts)
