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
        model: What is averaged; the average starts as a copy. Its tensors must stay where they are then.
        decay: In (0, 1).

    Attributes:
        model: The average, in evaluation mode.
        updates: How many there were.
    """

    def __init__(self, model: ModelT, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0
        # Looking tensors up by name takes longer than averaging those of a small network.
        self._averages, self._values = [], []
        self._copies = []
        for average, value in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True):
            if average.is_floating_point():
                self._averages.append(average)
                self._values.append(value)
            else:
                self._copies.append((average, value))

    @torch.no_grad()
    def update(self) -> None:
        """Take a step towards the weights of the model."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        torch._foreach_lerp_(self._averages, self._values, 1 - decay)
        for mine, value in self._copies:
            mine.copy_(value)
