"""Batches that are as a network takes them, of every layout in memory, and batches that are not."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pocketnet_fast.models.base import EmbeddingModel


class SmallNetwork(EmbeddingModel):
    """A convolution and a projection: what an export of ATen operators takes least time to compile for."""

    def __init__(self) -> None:
        super().__init__(8)
        self.conv = nn.Conv2d(3, 4, 3, stride=8)
        self.linear = nn.Linear(4 * 14 * 14, 8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(self.conv(x).relu().flatten(1))
        return out


def fitting(images: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Batches of the shape and dtype of 3 images: other sizes, and the same values at other strides."""
    yield "contiguous", images
    yield "one", images[:1]
    yield "none", images[:0]
    yield "many", images.repeat(4, 1, 1, 1)
    yield "channels last", images.contiguous(memory_format=torch.channels_last)
    yield "channels first in memory", images.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    yield "transposed", images.transpose(1, 3).contiguous().transpose(1, 3)
    yield "every other image", images.repeat_interleave(2, 0)[::2]
    yield "every other column", images.repeat_interleave(2, 2)[:, :, ::2]
    yield "part of a larger one", nn.functional.pad(images, (2, 3, 1, 4))[..., 1:-4, 2:-3]
    yield "one image many times", images[:1].expand(5, -1, -1, -1)
    yield "offset", torch.cat([images[:1], images])[1:]


def others(images: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Batches of another dtype, rank, number of channels, size or device."""
    for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.float32, torch.uint8, torch.int8):
        if dtype != images.dtype:
            yield str(dtype), images.to(dtype)
    yield "int64", images.to(torch.int64)
    yield "bool", images.to(torch.bool)
    yield "rank 0", images.flatten()[0]
    yield "rank 1", images.flatten()
    yield "rank 2", images.flatten(1)
    yield "rank 3", images[0]
    yield "rank 5", images[None].expand(2, -1, -1, -1, -1)
    planar = images.shape[1] == 3
    channel = 1 if planar else 3
    for count in (1, 2, 4):
        yield f"{count} channels", images.repeat_interleave(2, channel).narrow(channel, 0, count)
    yield "channels at the other end", images.permute(0, 2, 3, 1) if planar else images.permute(0, 3, 1, 2)
    first = 2 if planar else 1
    for height, width in ((128, 128), (111, 112), (112, 113), (1, 112), (112, 1), (0, 112)):
        larger = images.repeat_interleave(2, first).repeat_interleave(2, first + 1)
        yield f"{height}x{width}", larger.narrow(first, 0, height).narrow(first + 1, 0, width)
    yield "meta", images.to("meta")
