"""Problems, the float64 reference's answers and comparisons that the tests of the margin softmax share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pocketnet_fast.losses import margin_cross_entropy
from pocketnet_fast.ops.margin_cross_entropy import MarginOptions
from pocketnet_fast.ops.margin_cross_entropy.reference import margin

ARCFACE = (1.0, 0.5, 0.0)
COSFACE = (1.0, 0.0, 0.35)
SPHEREFACE = (1.35, 0.0, 0.0)
COMBINED = (1.2, 0.3, 0.1)
STEEP = (4.0, 0.2, 0.3)
MARGINS = [ARCFACE, COSFACE, SPHEREFACE, COMBINED, STEEP, (1.0, 0.0, 0.0)]

# Sums of up to 512 products in the cosines, times the scale, in an exponent; float32 eager is as far off.
TOLERANCE = 1e-4


def problem(samples: int, dims: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(samples, dims, generator=generator) * 3
    kernel = torch.randn(dims, classes, generator=generator) * 0.01
    return embedding, kernel, torch.randint(0, classes, (samples,), generator=generator)


def evaluate(
    embedding: Tensor, kernel: Tensor, label: Tensor, **options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    embedding, kernel = embedding.detach().requires_grad_(), kernel.detach().requires_grad_()
    loss = margin_cross_entropy(embedding, kernel, label, **options)
    loss.backward()
    assert embedding.grad is not None
    assert kernel.grad is not None
    return loss.detach(), embedding.grad, kernel.grad


def exact(embedding: Tensor, kernel: Tensor, label: Tensor, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    return evaluate(embedding.double(), kernel.double(), label, **options | {"implementation": "reference"})


def distance(actual: Tensor, expected: Tensor, floor: float = 0.0) -> float:
    return float((actual.double() - expected).norm() / (expected.norm() + floor + 1e-300))


def assert_agree(
    embedding: Tensor, kernel: Tensor, label: Tensor, *, implementation: str = "fused", **options: Any
) -> None:
    """Compare an implementation's loss and gradients with the float64 reference's."""
    found = evaluate(embedding, kernel, label, implementation=implementation, **options)
    expected = exact(embedding, kernel, label, **options)
    assert float((found[0] - expected[0]).abs()) < 1e-5 * (1.0 + float(expected[0].abs()))
    # The gradients of a one-dimensional embedding vanish: the terms that cancel are rounded.
    for actual, true, size in zip(found[1:], expected[1:], (embedding, kernel), strict=True):
        assert torch.isfinite(actual).all()
        length = float(size.norm(dim=1 if size is embedding else 0).min())
        assert distance(actual, true, floor=0.1 / length) < TOLERANCE


def eager_bfloat16(embedding: Tensor, kernel: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """ArcFace as eager PyTorch computes it from bfloat16: loss and gradients."""
    e, k = embedding.clone().requires_grad_(), kernel.clone().requires_grad_()
    cosine = F.normalize(e) @ F.normalize(k, dim=0)
    column = label.unsqueeze(1)
    target = margin(cosine.gather(1, column).float().clamp(-1, 1), MarginOptions()).bfloat16()
    loss = F.cross_entropy(cosine.scatter(1, column, target) * 64.0, label)
    loss.backward()
    assert e.grad is not None
    assert k.grad is not None
    return loss.detach(), e.grad, k.grad


def eager_autocast(embedding: Tensor, kernel: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """ArcFace as eager PyTorch computes it from float32 under autocast to bfloat16: loss and gradients."""
    e, k = embedding.clone().requires_grad_(), kernel.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        cosine = F.normalize(e) @ F.normalize(k, dim=0)
        column = label.unsqueeze(1)
        target = margin(cosine.gather(1, column).float().clamp(-1, 1), MarginOptions())
        loss = F.cross_entropy(cosine.float().scatter(1, column, target) * 64.0, label)
    loss.backward()
    assert e.grad is not None
    assert k.grad is not None
    return loss.detach(), e.grad, k.grad


def assert_not_differentiated_twice(implementation: Any) -> None:
    """A second derivative is refused, and named as what it is."""
    embedding, kernel, label = problem(5, 8, 40)
    embedding.requires_grad_()
    loss = margin_cross_entropy(embedding, kernel, label, implementation=implementation)
    (gradient,) = torch.autograd.grad(loss, embedding, create_graph=True)
    with pytest.raises(RuntimeError, match=r"differentiated? twice"):
        gradient.sum().backward()
