"""Running average of the weights."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

ModelT = TypeVar("ModelT", bound=nn.Module)


class AveragedModel(Generic[ModelT]):
    """Exponential moving average of a model's parameters and buffers.

    The decay of update t, from 0, is ``min(decay, (1 + t) / (10 + t))``, so that the random first weights are
    soon forgotten. Whole-number buffers are copied.

    Args:
        model: What is averaged; the average starts as a copy.
        decay: In (0, 1).

    Attributes:
        model: The average, in evaluation mode.
        updates: How many there were.
    """

    def __init__(self, model: ModelT, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take a step towards the weights of ``model``."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        source = model.state_dict()
        averages, values = [], []
        for name, average in self.model.state_dict().items():
            if average.is_floating_point():
                averages.append(average)
                values.append(source[name])
            else:
                average.copy_(source[name])
        torch._foreach_lerp_(averages, values, 1 - decay)
