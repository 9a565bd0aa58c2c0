"""Partial FC: the softmax over a sample of the classes (arXiv 2010.05222)."""

from __future__ import annotations

import torch
from torch import Tensor

from pocketnet_fast.errors import PocketNetError


def sample_classes(
    label: Tensor, classes: int, rate: float, *, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Choose ``rate * classes`` classes, among them the class of every label (arXiv 2010.05222, sec. 3.2).

    Args:
        label: int64 N: a class, or -1 for none.
        classes: Number of classes.
        rate: Part of the classes to keep, in (0, 1]. More are kept if the labels alone are more.
        generator: CPU generator of the choice of negatives; torch's default one without it.

    Returns:
        The chosen classes, int64, ascending; and the labels as positions among them, -1 where they were -1.

    Raises:
        PocketNetError: The rate lies outside (0, 1].

    Examples:
        >>> kept, renumbered = sample_classes(label, 85742, 0.1)
    """
    if not 0.0 < rate <= 1.0:
        raise PocketNetError(f"the sampling rate must lie in (0, 1], got {rate}")
    priority = torch.rand(classes, generator=generator)
    priority[label[label >= 0].cpu()] = 2.0
    positives = int((priority == 2.0).sum())
    kept = max(positives, round(rate * classes), 1)
    chosen = priority.topk(kept).indices.sort().values.to(label.device)
    position = torch.searchsorted(chosen, label.contiguous())
    return chosen, torch.where(label >= 0, position, -1)
