"""Weights and images from a formula: integers of a hash, the same on every machine and in every version.

The recordings in ``recordings/`` hold what eager PyTorch computes from them in float64, and no weight.
"""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn


def fractions(name: str, count: int) -> npt.NDArray[np.float64]:
    """Values in [0, 1), multiples of 2^-24: SplitMix64 (Steele, Lea, Flood, 2014) of a name and a place."""
    place = np.arange(1, count + 1, dtype=np.uint64) + np.uint64(zlib.crc32(name.encode()) << 20)
    with np.errstate(over="ignore"):
        z = place * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return (z >> np.uint64(40)).astype(np.float64) / 2**24


def between(name: str, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    """float32 values between two bounds."""
    values = fractions(name, int(np.prod(shape))) * (high - low) + low
    return torch.from_numpy(values.astype(np.float32).reshape(shape))


def images(name: str, count: int) -> Tensor:
    """uint8 N,112,112,3: ramps that fold back, with noise."""
    n, y, x, c = np.ogrid[:count, :112, :112, :3]
    ramp = ((2 + n) * x + (3 + c) * y + 37 * n + 80 * c) % 512
    smooth = np.minimum(ramp, 511 - ramp)
    noise = (fractions(name, count * 112 * 112 * 3) * 256).astype(np.int64).reshape(smooth.shape)
    return torch.from_numpy(((3 * smooth + noise) // 4).astype(np.uint8))


@torch.no_grad()
def fill_(network: nn.Module) -> None:
    """Give every parameter and running statistic of a network its value, by its name.

    Convolutions keep the variance of what they read, so that activations stay of about one size in networks
    of sums and normalisations; slopes, scales, shifts and statistics differ by channel.
    """
    for name, module in network.named_modules():
        for key, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            full = f"{name}.{key}" if name else key
            low, high = _bounds(module, key, tensor)
            if tensor.is_floating_point():
                tensor.copy_(between(full, tuple(tensor.shape), low, high))


def _bounds(module: nn.Module, key: str, tensor: Tensor) -> tuple[float, float]:
    if isinstance(module, nn.Conv2d | nn.Linear) and key == "weight":
        reach = (3 / tensor[0].numel()) ** 0.5
        return -reach, reach
    if isinstance(module, nn.PReLU):
        return 0.0, 0.5
    if isinstance(module, nn.BatchNorm2d):
        return {"weight": (0.6, 1.4), "running_var": (0.5, 1.5)}.get(key, (-0.3, 0.3))
    return -0.5, 0.5
