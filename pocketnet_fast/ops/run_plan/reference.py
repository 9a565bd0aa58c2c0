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
_HALF = 4  # the version of programs of half precision
_GROUP, _STEM, _NODE, _GLOBAL_DEPTHWISE, _LINEAR, _MAP = range(6)
_POINTWISE, _DEPTHWISE, _MAX_POOL, _AVG_POOL, _IDENTITY = range(5)
_POOLED_POINTWISE, _DEPTHWISE_ALONE, _UPSAMPLED, _DEPTHWISE_POOLED = range(5, 9)


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
        N,embedding of ``dtype``; of a program that ends in maps, N,results.
    """
    if flip:
        mirrored = pixels.flip(2 if pixels.dtype == torch.uint8 else 3)
        once = run_plan_reference(pixels, program, weights, dtype=dtype)
        return once + run_plan_reference(mirrored, program, weights, dtype=dtype)

    words = _Words(program.tolist())
    constants = weights.to(dtype)
    header = words.take(13)
    bgr, embedding, buffer_count, items = header[5], header[6], header[7], header[8]
    blocks = [words.take(6)[2] for _ in range(buffer_count)]
    states: dict[int, Tensor] = {}
    result = torch.empty(0, dtype=dtype)
    maps: list[Tensor] = []

    def constant(offset: int, *shape: int) -> Tensor:
        return constants[offset : offset + math.prod(shape)].view(shape)

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
                total = total + _term(words.take(13), states, blocks[out], constant, filters)
            states[out] = total
        elif kind == _GLOBAL_DEPTHWISE:
            source, out, *offsets = words.take(6)
            states[out] = _global_depthwise(states[source], offsets, constant)
        elif kind == _LINEAR:
            source, weight, bias = words.take(3)
            features = states[source].flatten(1)
            out_blocks = -(-embedding // _BLOCK)
            packed = constant(weight, out_blocks, features.shape[1], _BLOCK).transpose(0, 1)
            product = features @ packed.reshape(features.shape[1], -1) + vector(bias, out_blocks)
            result = product[:, :embedding]
        elif kind == _MAP:
            source, channels = words.take(2)
            maps.append(states[source][:, :channels].permute(0, 2, 3, 1).flatten(1))
    return torch.cat(maps, 1) if maps else result


def _normalized(pixels: Tensor, norm: Tensor, bgr: bool, dtype: torch.dtype) -> Tensor:
    if pixels.dtype != torch.uint8:
        return pixels.to(dtype)
    image = pixels.permute(0, 3, 1, 2).to(dtype)
    if bgr:
        image = image.flip(1)
    return (image - norm[0].view(1, 3, 1, 1)) * norm[1].view(1, 3, 1, 1)


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope.view(1, -1, 1, 1), x)


def _global_depthwise(x: Tensor, offsets: list[int], constant: Any) -> Tensor:
    slope, weight, bias, cap = offsets
    channels, height, width = x.shape[1:]
    packed = constant(weight, channels // _BLOCK, height * width, _BLOCK).transpose(1, 2)
    x = _activated(x, constant(slope, channels), None if cap < 0 else constant(cap, channels))
    summed = (x * packed.reshape(1, channels, height, width)).sum((2, 3), keepdim=True)
    return summed + constant(bias, 1, channels, 1, 1)


def _activated(x: Tensor, slope: Tensor, cap: Tensor | None) -> Tensor:
    x = _prelu(x, slope)
    return x if cap is None else torch.minimum(x, cap.view(1, -1, 1, 1))


def _term(words: list[int], states: dict[int, Tensor], blocks: int, constant: Any, filters: Any) -> Tensor:
    kind, source, kernel, stride, shift, first_out, out_blocks = words[:7]
    slope, depthwise, pointwise, scale, cap, middle = words[7:]
    x = states[source]
    channels = x.shape[1]
    in_blocks = channels // _BLOCK
    if kind in (_IDENTITY, _UPSAMPLED, _MAX_POOL, _AVG_POOL):
        return _without_weights(kind, x, stride, scale, constant)
    if kind == _POOLED_POINTWISE:
        x, stride = F.max_pool2d(x, 2, 2), 1
    x = _activated(x, constant(slope, channels), None if cap < 0 else constant(cap, channels))
    if kind in (_DEPTHWISE, _DEPTHWISE_ALONE, _DEPTHWISE_POOLED):
        taps = _taps(filters, depthwise, in_blocks, kernel, half=filters is not constant)
        steps = 1 if kind == _DEPTHWISE_POOLED else stride
        x = F.conv2d(x, taps, None, steps, kernel // 2, groups=channels)
        if middle >= 0:
            bias, slopes, caps = constant(middle, in_blocks, 3, _BLOCK).transpose(0, 1).flatten(1)
            x = _activated(x + bias.view(1, -1, 1, 1), slopes, caps)
    else:
        x = x[:, :, shift::stride, shift::stride]
    if kind == _DEPTHWISE_POOLED:
        x = F.max_pool2d(x, 2, 2)
    if kind == _DEPTHWISE_ALONE:
        return x
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


def _without_weights(kind: int, x: Tensor, stride: int, scale: int, constant: Any) -> Tensor:
    if kind == _IDENTITY:
        return x
    if kind == _UPSAMPLED:
        return F.interpolate(x, scale_factor=2, mode="nearest")
    if kind == _MAX_POOL:
        pooled = F.max_pool2d(x, 3, stride, 1)
    else:
        pooled = F.avg_pool2d(x, 3, stride, 1, count_include_pad=False)
    factor: Tensor = constant(scale, 1, x.shape[1], 1, 1)
    return pooled * factor


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
