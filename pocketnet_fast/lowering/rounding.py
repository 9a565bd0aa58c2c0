"""What rounding the weights does to the mean of a convolution's result, without any data.

The states of a trained network have known moments: batch normalisation gives each of its results the mean
beta and the deviation gamma. Rounded weights shift a convolution's mean by the rounding errors times the mean
of what they multiply; taking that from the bias leaves errors that average out (bias correction, arXiv
1906.04721, Section 4.2).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from pocketnet_fast.lowering.packing import to_bf16


class Moments(NamedTuple):
    """Mean and variance of the channels of a state, as normalisation left them in training."""

    mean: np.ndarray
    variance: np.ndarray

    def plus(self, other: Moments) -> Moments:
        """Those of a sum of two, as if they were independent."""
        return Moments(self.mean + other.mean, self.variance + other.variance)

    @staticmethod
    def joined(parts: list[Moments]) -> Moments:
        """Those of a concatenation."""
        return Moments(np.concatenate([p.mean for p in parts]), np.concatenate([p.variance for p in parts]))

    def every(self, first: int, step: int) -> Moments:
        """Those of every ``step``-th channel."""
        return Moments(self.mean[first::step], self.variance[first::step])

    @staticmethod
    def after(bn: nn.Module) -> Moments:
        """Those of a normalisation's result.

        One that only adds a bias (see ``models/onnx_weights.py``) tells none: they are zero, which corrects
        nothing.
        """
        assert isinstance(bn, nn.BatchNorm1d | nn.BatchNorm2d)
        assert bn.running_mean is not None and bn.running_var is not None
        gamma, beta, mean, variance = (
            t.detach().cpu().double().numpy() for t in (bn.weight, bn.bias, bn.running_mean, bn.running_var)
        )
        if (gamma == 1).all() and (mean == 0).all() and (abs(variance + bn.eps - 1) < 1e-6).all():
            return Moments(np.zeros_like(beta), np.zeros_like(beta))
        return Moments(beta, gamma**2)


def expected_prelu(moments: Moments, slope: np.ndarray) -> np.ndarray:
    """Mean of PReLU of normally distributed values."""
    deviation = np.sqrt(np.maximum(moments.variance, 1e-12))
    z = torch.from_numpy(moments.mean / deviation)
    below = torch.special.ndtr(z).numpy()
    density = np.exp(-0.5 * z.numpy() ** 2) / np.sqrt(2 * np.pi)
    positive = moments.mean * below + deviation * density
    return positive + slope * (moments.mean - positive)


def expected_capped(moments: Moments, slope: np.ndarray, cap: np.ndarray | None) -> np.ndarray:
    """Mean of ``min(prelu(x), cap)`` of normally distributed values; without a cap, of PReLU."""
    mean = expected_prelu(moments, slope)
    if cap is None:
        return mean
    # What lies above the cap is that much smaller.
    above = Moments(moments.mean - cap, moments.variance)
    return mean - expected_prelu(above, np.zeros_like(cap))


def rounded(weights: np.ndarray) -> np.ndarray:
    """Weights as bfloat16 holds them, in float64."""
    return to_bf16(weights).double().numpy()
