"""Margins, and the margin softmax in plain PyTorch: any precision, and all N x classes logits at once."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pocketnet_fast.ops.margin_cross_entropy.options import MarginOptions

# A vector shorter than this counts as zero: its cosine with every other is 0, and its gradient is 0.
EPSILON = 1e-12


def unit(x: Tensor, dim: int) -> Tensor:
    """``x`` divided by its length along ``dim``; zero, with zero gradient, where that is at most EPSILON."""
    square = (x * x).sum(dim, keepdim=True)
    positive = square > EPSILON**2
    return x * torch.where(positive, torch.where(positive, square, 1.0).rsqrt(), 0.0)


def margin(cosine: Tensor, options: MarginOptions) -> Tensor:
    """``psi`` of ``MarginOptions`` for cosines in [-1, 1].

    The sine's derivative is taken as 0 where the cosine is -1 or 1: there the gradients of the cosine itself
    vanish, and so does their product with it.
    """
    square = 1.0 - cosine * cosine
    inside = square > 0
    sine = torch.where(inside, torch.where(inside, square, 1.0).sqrt(), 0.0)
    if options.m1 == 1.0:
        within = cosine * math.cos(options.m2) - sine * math.sin(options.m2)
        beyond = cosine - options.m2 * math.sin(options.m2)
        psi = torch.where(cosine > math.cos(math.pi - options.m2), within, beyond)
    else:
        angle = options.m1 * torch.atan2(sine, cosine) + options.m2
        turns = (angle.detach() / math.pi).floor()
        psi = (1.0 - 2.0 * (turns % 2)) * angle.cos() - 2.0 * turns
    psi = psi - options.m3
    return torch.where(cosine > 0, psi, cosine) if options.easy_margin else psi


def margin_cross_entropy_reference(
    embedding: Tensor, kernel: Tensor, label: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """What a margin softmax needs to know about each sample.

    Args:
        embedding: N,D floating point; bfloat16 and float16 are computed in float32.
        kernel: D,classes, of the same device.
        label: int64 N: the class, or -1 for a class that ``kernel`` does not hold.
        scale: Factor of the cosines.

    Returns:
        Two tensors of N: ``log sum exp(scale * cosine)`` over all classes but the label, -inf without any;
        and the label's cosine, clamped to [-1, 1], 0 where the label is -1.
    """
    precision = torch.promote_types(torch.promote_types(embedding.dtype, kernel.dtype), torch.float32)
    with torch.autocast(embedding.device.type, enabled=False):
        cosine = (unit(embedding.to(precision), 1) @ unit(kernel.to(precision), 0)).clamp(-1.0, 1.0)
        present = (label >= 0).unsqueeze(1)
        column = label.clamp_min(0).unsqueeze(1)
        is_label = torch.zeros_like(cosine, dtype=torch.bool).scatter(1, column, present)
        others = (scale * cosine).masked_fill(is_label, -math.inf).logsumexp(1)
        return others, torch.where(present, cosine.gather(1, column), 0.0).squeeze(1)


def cross_entropy(others: Tensor, cosine: Tensor, options: MarginOptions) -> Tensor:
    """Each sample's loss, ``log(1 + exp(others - scale * psi))``.

    Args:
        others: N floating point, as ``margin_cross_entropy_reference`` returns it.
        cosine: N floating point, as it returns that.
        options: Scale and margins.

    Returns:
        N losses of the same dtype.
    """
    return F.softplus(others - options.scale * margin(cosine, options), threshold=40.0)
