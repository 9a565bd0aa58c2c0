"""The heads: their parameter, their margins, and training with them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.losses import ArcFace, CombinedMargin, CosFace, margin_cross_entropy


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(12, 16, generator=generator), torch.randint(0, 30, (12,), generator=generator)


@pytest.mark.parametrize(
    ("head", "margins"),
    [
        (ArcFace(16, 30), (1.0, 0.5, 0.0)),
        (ArcFace(16, 30, margin=0.3), (1.0, 0.3, 0.0)),
        (CosFace(16, 30), (1.0, 0.0, 0.35)),
        (CosFace(16, 30, margin=0.2), (1.0, 0.0, 0.2)),
        (CombinedMargin(16, 30, margins=(1.1, 0.2, 0.3)), (1.1, 0.2, 0.3)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_heads_are_the_loss(head: CombinedMargin, margins: tuple[float, float, float]) -> None:
    embedding, label = batch()
    expected = margin_cross_entropy(embedding, head.kernel, label, margins=margins)
    assert torch.equal(head(embedding, label), expected)
    teacher = embedding.flip(0)
    expected = margin_cross_entropy(
        embedding, head.kernel, label, margins=margins, teacher=teacher, kd_weight=100.0
    )
    assert torch.equal(head(embedding, label, teacher, 100.0), expected)
    assert "16, 30" in repr(head)


@pytest.mark.parametrize("kind", [ArcFace, CombinedMargin])
def test_options_reach_the_loss(kind: Any) -> None:
    embedding, label = batch()
    head = kind(16, 30, scale=20.0, easy_margin=True, implementation="reference")
    expected = margin_cross_entropy(
        embedding, head.kernel, label, scale=20.0, easy_margin=True, implementation="reference"
    )
    assert torch.equal(head(embedding, label), expected)
    with pytest.raises(PocketNetError, match="scale"):
        kind(16, 30, scale=-1.0)


def test_published_key() -> None:
    torch.manual_seed(0)
    head = ArcFace(128, 1000)
    assert {name: tuple(value.shape) for name, value in head.state_dict().items()} == {"kernel": (128, 1000)}
    kernel = head.kernel.detach()
    assert float(kernel.std()) == pytest.approx(0.01, rel=0.02)
    assert float(kernel.mean()) == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("kind", [ArcFace, CosFace])
def test_training_separates_identities(kind: Any) -> None:
    torch.manual_seed(0)
    head = kind(16, 30)
    embedding, label = batch()
    embedding = embedding.requires_grad_()
    optimizer = torch.optim.SGD([embedding, head.kernel], lr=0.02, momentum=0.9)
    first = float(head(embedding, label).detach())
    for _ in range(200):
        optimizer.zero_grad()
        loss = head(embedding, label)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.1 * first
    assert head(embedding, label).isfinite()
