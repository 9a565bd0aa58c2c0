"""``run_plan`` in plain PyTorch operators, in any floating-point precision, to test the kernels against.

It reads the same program and weights as the kernels, from the description in ``csrc/plan/program.h`` and the
equations in ``csrc/kernels/*/*.h``, and shares no code with them or with the lowering.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCK = 16
_HALF = 2  # the version of programs of half precision
_GROUP, _STEM, _NODE, _GLOBAL_DEPTHWISE, _LINEAR = range(5)
_POINTWISE, _DEPTHWISE, _MAX_POOL, _AVG_POOL, _IDENTITY = range(5)


class _Words:
    def __init__(self, words: list[int]) -> None:
        self._words = words
        self._at = 0

    def take(self, count: int) -> list[int]:
        taken = self._words[self._at : self._at + count]
        self._at += count
        return taken


def run_plan_reference(
    pixels: Tensor,
    program: Tensor,
    weights: Tensor,
    *,
    flip: bool = False,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Run a program on N images.

    Args:
        pixels: Floating-point N,3,H,W, normalised RGB, or uint8 N,H,W,3 in the program's colour order.
        program: int32 words.
        weights: float32 constants, used as ``dtype``; in a program of half precision those of convolutions
            are pairs of bfloat16. Nothing but them is rounded to it.
        flip: Add the embeddings of the mirror images.
        dtype: Precision of the arithmetic and of the result.

    Returns:
        N,embedding of ``dtype``.
    """
    if flip:
        mirrored = pixels.flip(2 if pixels.dtype == torch.uint8 else 3)
        once = run_plan_reference(pixels, program, weights, dtype=dtype)
        return once + run_plan_reference(mirrored, program, weights, dtype=dtype)

    words = _Words(program.tolist())
    constants = weights.to(dtype)
    header = words.take(12)
    bgr, embedding, buffer_count, items = header[5], header[6], header[7], header[8]
    blocks = [words.take(6)[2] for _ in range(buffer_count)]
    states: dict[int, Tensor] = {}
    result = torch.empty(0, dtype=dtype)

    def constant(offset: int, *shape: int) -> Tensor:
        size = 1
        for side in shape:
            size *= side
        return constants[offset : offset + size].view(shape)

    def pairs(offset: int, *shape: int) -> Tensor:
        count = math.prod(shape)
        words = weights[offset : offset + count].contiguous().view(torch.bfloat16)
        return words.to(dtype).view(*shape, 2).movedim(-1, -2)

    filters = pairs if header[1] == _HALF else constant

    def vector(offset: int, block_count: int) -> Tensor:
        return constant(offset, block_count * _BLOCK)

    for _ in range(items):
        (kind,) = words.take(1)
        if kind == _GROUP:
            words.take(2)
        elif kind == _STEM:
            out, weight, bias, norm = words.take(4)
            image = _normalized(pixels, constant(norm, 2, 3), bool(bgr), dtype)
            packed = constant(weight, blocks[out], 3, 3, 3, _BLOCK)  # block, ky, colour, kx, channel
            kernel = packed.permute(0, 4, 2, 1, 3).reshape(-1, 3, 3, 3)
            states[out] = F.conv2d(image, kernel, vector(bias, blocks[out]), stride=2, padding=1)
        elif kind == _NODE:
            out, bias, count = words.take(3)
            total = vector(bias, blocks[out]).view(1, -1, 1, 1)
            for _ in range(count):
                total = total + _term(words.take(11), states, blocks[out], constant, filters)
            states[out] = total
        elif kind == _GLOBAL_DEPTHWISE:
            source, out, slope, weight, bias = words.take(5)
            x = states[source]
            spatial = x.shape[2] * x.shape[3]
            packed = constant(weight, blocks[source], spatial, _BLOCK).transpose(1, 2)
            kernel = packed.reshape(1, -1, x.shape[2], x.shape[3])
            summed = (_prelu(x, vector(slope, blocks[source])) * kernel).sum((2, 3), keepdim=True)
            states[out] = summed + vector(bias, blocks[source]).view(1, -1, 1, 1)
        elif kind == _LINEAR:
            source, weight, bias = words.take(3)
            features = states[source].flatten(1)
            out_blocks = -(-embedding // _BLOCK)
            packed = constant(weight, out_blocks, features.shape[1], _BLOCK).transpose(0, 1)
            product = features @ packed.reshape(features.shape[1], -1) + vector(bias, out_blocks)
            result = product[:, :embedding]
    return result


def _normalized(pixels: Tensor, norm: Tensor, bgr: bool, dtype: torch.dtype) -> Tensor:
    if pixels.dtype != torch.uint8:
        return pixels.to(dtype)
    image = pixels.permute(0, 3, 1, 2).to(dtype)
    if bgr:
        image = image.flip(1)
    return (image - norm[0].view(1, 3, 1, 1)) * norm[1].view(1, 3, 1, 1)


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope.view(1, -1, 1, 1), x)


def _term(words: list[int], states: dict[int, Tensor], blocks: int, constant: Any, filters: Any) -> Tensor:
    kind, source, kernel, stride, shift, first_out, out_blocks, slope, depthwise, pointwise, scale = words
    x = states[source]
    channels = x.shape[1]
    in_blocks = channels // _BLOCK
    if kind == _IDENTITY:
        return x
    if kind in (_MAX_POOL, _AVG_POOL):
        if kind == _MAX_POOL:
            pooled = F.max_pool2d(x, 3, stride, 1)
        else:
            pooled = F.avg_pool2d(x, 3, stride, 1, count_include_pad=False)
        factor: Tensor = constant(scale, 1, channels, 1, 1)
        return pooled * factor
    x = _prelu(x, constant(slope, channels))
    if kind == _DEPTHWISE:
        taps = _taps(filters, depthwise, in_blocks, kernel, half=filters is not constant)
        x = F.conv2d(x, taps, None, stride, kernel // 2, groups=channels)
    else:
        x = x[:, :, shift::stride, shift::stride]
    # out block, in block, in, out; in half precision two inputs to a word
    if filters is constant:
        packed = constant(pointwise, out_blocks, in_blocks, _BLOCK, _BLOCK)
    else:
        packed = filters(pointwise, out_blocks, in_blocks, _BLOCK // 2, _BLOCK)
        packed = packed.reshape(out_blocks, in_blocks, _BLOCK, _BLOCK)
    matrix = packed.permute(0, 3, 1, 2).reshape(out_blocks * _BLOCK, channels)
    product = torch.einsum("oc,nchw->nohw", matrix, x)
    before = first_out * _BLOCK
    after = (blocks - first_out - out_blocks) * _BLOCK
    return F.pad(product, (0, 0, 0, 0, before, after))


def _taps(filters: Any, offset: int, blocks: int, kernel: int, *, half: bool) -> Tensor:
    """Depthwise weights, channels x 1 x kernel x kernel."""
    if not half:
        taps = filters(offset, blocks, kernel * kernel, _BLOCK).transpose(1, 2)
        return taps.reshape(blocks * _BLOCK, 1, kernel, kernel)
    # Two rows to a word, the last one above a zero.
    words = filters(offset, blocks, (kernel + 1) // 2, kernel, _BLOCK)  # block, pair, kx, half, channel
    rows = words.movedim(3, 2).reshape(blocks, kernel + 1, kernel, _BLOCK)
    rows = torch.cat([rows[:, : kernel - 1], rows[:, kernel:]], 1)
    return rows.permute(0, 3, 1, 2).reshape(blocks * _BLOCK, 1, kernel, kernel)
