"""Problems, the float64 reference's answers and comparisons that the tests of the margin softmax share."""

from __future__ import annotations

import math
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

TWO_TYPES = [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)]

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


def assert_bounded_at_a_cosine_of_one(
    embedding: Tensor, kernel: Tensor, label: Tensor, sign: float, **options: Any
) -> None:
    """There the derivative of the angle is infinite; ``sign`` is that of two samples' cosines."""
    embedding[0] = sign * 7 * kernel[:, label[0]]
    embedding[1] = 0.0
    embedding[1, 2] = 2.0
    kernel[:, label[1]] = 0.0
    kernel[2, label[1]] = sign * 4.0
    loss, *gradients = evaluate(embedding, kernel, label, **options)
    assert all(torch.isfinite(g).all() for g in gradients)
    expected = exact(embedding, kernel, label, **options)[0]
    assert float((loss - expected).abs()) < 1e-4 * (1 + float(expected))


def assert_right_close_to_a_cosine_of_one(
    kernel: Tensor, label: Tensor, noise: Tensor, implementation: str
) -> None:
    """Each sample's gradients are right, whose embedding is nearly its class's centre."""
    tiny = torch.tensor([1e-2, 1e-3, 1e-4, 1e-5]).unsqueeze(1).to(kernel)
    embedding = kernel[:, label].T * 100 + tiny * noise
    _, by_embedding, by_kernel = evaluate(embedding, kernel, label, implementation=implementation)
    _, true_embedding, true_kernel = exact(embedding, kernel, label)
    for row in range(4):
        assert distance(by_embedding[row], true_embedding[row]) < 1e-5
    assert distance(by_kernel, true_kernel) < 1e-5


def assert_strides_change_nothing(
    embedding: Tensor, kernel: Tensor, label: Tensor, implementation: str
) -> None:
    expected = evaluate(embedding, kernel, label, implementation=implementation)
    dims, classes = kernel.shape
    wide = kernel.new_full((dims, 2 * classes + 60), math.nan)
    columns = slice(5, 5 + 2 * classes, 2)
    wide[:, columns] = kernel
    for e, k, y in (
        (embedding.T.contiguous().T, kernel.T.contiguous().T, label),
        (embedding.repeat(1, 2)[:, :dims], wide[:, columns], label.repeat_interleave(2)[::2]),
        (embedding.T.contiguous().T, kernel, label),
    ):
        assert not e.is_contiguous()
        found = evaluate(e, k, y, implementation=implementation)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def judged_by_eager_bfloat16(
    embedding: Tensor, kernel: Tensor, label: Tensor, implementation: str, times: float, floor: float = 0.0
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Loss and gradients of bfloat16, at most ``times`` as far from float64's as eager's, and float64's."""
    embedding, kernel = embedding.bfloat16(), kernel.bfloat16()
    found = evaluate(embedding, kernel, label, implementation=implementation)
    expected = exact(embedding, kernel, label)
    assert found[0].dtype == torch.float32
    assert found[1].dtype == found[2].dtype == torch.bfloat16
    for ours, theirs, true in zip(found, eager_bfloat16(embedding, kernel, label), expected, strict=True):
        assert distance(ours, true) <= times * distance(theirs, true) + floor
    return found, expected


def assert_mixed_precision(
    embedding: Tensor,
    kernel: Tensor,
    label: Tensor,
    implementation: str,
    dtypes: tuple[torch.dtype, torch.dtype],
) -> None:
    """Of embeddings and centres of two types, the loss is float32's and each gradient its tensor's."""
    embedding, kernel = embedding.to(dtypes[0]), kernel.to(dtypes[1])
    found = evaluate(embedding, kernel, label, implementation=implementation)
    expected = exact(embedding, kernel, label)
    assert (found[1].dtype, found[2].dtype) == dtypes
    for actual, true, dtype in zip(found, expected, (torch.float32, *dtypes), strict=True):
        assert distance(actual, true) < (1e-5 if dtype == torch.float32 else 2.0**-8)


def assert_not_differentiated_twice(implementation: Any) -> None:
    """A second derivative is refused, and named as what it is."""
    embedding, kernel, label = problem(5, 8, 40)
    embedding.requires_grad_()
    loss = margin_cross_entropy(embedding, kernel, label, implementation=implementation)
    (gradient,) = torch.autograd.grad(loss, embedding, create_graph=True)
    with pytest.raises(RuntimeError, match=r"differentiated? twice"):
        gradient.sum().backward()
