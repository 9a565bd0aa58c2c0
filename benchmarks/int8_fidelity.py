"""What integers of eight bits would do to embeddings: a simulation, since there are no such kernels.

    python benchmarks/int8_fidelity.py train.rec

Inputs and weights of every pointwise convolution are rounded as kernels would: inputs to unsigned integers
with a scale and a zero point for each channel, from the values of the calibration faces but for the outermost
few on either side; weights, with the inputs' scales in them, to signed ones with a scale for each output. All
else is fp32. Faces are taken at even distances from the data; those judged are not those of the calibration.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

import pocketnet_fast
from pocketnet_fast.data.records import RecordDataset

BATCH = 32


class Quantized(nn.Module):
    """A pointwise convolution that first notes the range of its inputs and then rounds."""

    def __init__(self, convolution: nn.Conv2d, bits: int, outermost: float) -> None:
        super().__init__()
        self.convolution = convolution
        self.bits = bits
        self.outermost = outermost
        self.ranges: list[tuple[Tensor, Tensor]] = []
        self.rounds = False

    def forward(self, x: Tensor) -> Tensor:
        """As the convolution."""
        if not self.rounds:
            values = x.transpose(0, 1).flatten(1)
            few = max(int(values.shape[1] * self.outermost), 1)
            self.ranges.append(
                (values.kthvalue(few, 1).values, values.kthvalue(values.shape[1] - few + 1, 1).values)
            )
            return self.convolution(x)
        low, high = (torch.stack(bounds).mean(0) for bounds in zip(*self.ranges, strict=True))
        levels = 2**self.bits - 1
        scale = ((high.clamp_min(0) - low.clamp_max(0)) / levels).clamp_min(1e-12)[:, None, None]
        zero = (-low.clamp_max(0)[:, None, None] / scale).round()
        integers = ((x / scale).round() + zero).clamp(0, levels) - zero
        weights = self.convolution.weight * scale[None, :, :, :]
        step = weights.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12) / (levels // 2)
        rounded = (weights / step).round() * step
        return nn.functional.conv2d(integers, rounded, self.convolution.bias, self.convolution.stride)


def quantize(network: nn.Module, bits: int, outermost: float) -> list[Quantized]:
    """Put a ``Quantized`` in the place of every pointwise convolution."""
    found = []
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv2d) and child.kernel_size == (1, 1) and child.groups == 1:
                quantized = Quantized(child, bits, outermost)
                setattr(module, name, quantized)
                found.append(quantized)
    return found


def faces(dataset: RecordDataset, count: int, offset: int) -> Tensor:
    """Normalised count,3,112,112."""
    chosen = np.linspace(offset, len(dataset.labels) - 1 - offset, count).astype(int)
    pixels = torch.from_numpy(np.stack([dataset.image(int(i)) for i in chosen]))
    return (pixels.permute(0, 3, 1, 2).float() - 127.5) / 127.5


def main() -> None:
    """Simulate, and print what is left of the cosine."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="a .rec file, or a folder with train.rec")
    parser.add_argument("--model", default="pocketnet_s128")
    parser.add_argument("--bits", type=int, default=8)
    parser.add_argument("--outermost", type=float, default=1e-4, help="share of values beyond either end")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--calibration", type=int, default=128)
    arguments = parser.parse_args()
    network = pocketnet_fast.create_model(arguments.model, pretrained=True).eval()
    dataset = RecordDataset(arguments.data)
    judged = faces(dataset, arguments.images, 37).split(BATCH)
    with torch.no_grad():
        exact = torch.cat([network(part) for part in judged])
        convolutions = quantize(network, arguments.bits, arguments.outermost)
        for part in faces(dataset, arguments.calibration, 0).split(BATCH):
            network(part)
        for convolution in convolutions:
            convolution.rounds = True
        rounded = torch.cat([network(part) for part in judged])
    cosine = torch.cosine_similarity(rounded, exact)
    Console().print(
        f"{len(convolutions)} pointwise convolutions in {arguments.bits} bits: cosine to fp32 on "
        f"{len(cosine)} faces {cosine.mean():.4f} on average, {cosine.min():.4f} at worst"
    )


if __name__ == "__main__":
    main()
