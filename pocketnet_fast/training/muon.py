"""Muon: momentum made orthogonal for the matrices of a network, AdamW for everything else.

K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024). torch.optim.Muon takes
two-dimensional parameters alone and computes in bfloat16; here they are convolutions, small enough for
float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import torch
from torch import Tensor, nn

# Of the published quintic iteration, which brings singular values near 1 in few steps without converging.
_COEFFICIENTS: Final = (3.4445, -4.7750, 2.0315)
_STEPS: Final = 5


def orthogonalized(matrix: Tensor) -> Tensor:
    """The matrix (rows,columns) with all singular values brought to about 1 (0.7 to 1.2)."""
    a, b, c = _COEFFICIENTS
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide / (wide.norm() + 1e-7)
    for _ in range(_STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide is matrix else x.T


def is_matrix(parameter: Tensor) -> bool:
    """Whether a parameter mixes channels: a dense layer's, or a convolution's that is not depthwise."""
    return parameter.dim() >= 2 and parameter.shape[0] > 1 and parameter.shape[1] > 1


class Muon(torch.optim.Optimizer):
    """The optimiser; its first parameter group are the matrices.

    A matrix moves by ``factor * lr * sqrt(max(1, rows / columns))`` times its orthogonalised Nesterov
    momentum. Weight decay is decoupled and spares vectors: slopes, scales and shifts.

    Args:
        matrices: Parameters of rows, and columns in all other dimensions.
        others: Parameters for AdamW, with its usual coefficients 0.9 and 0.999.
        lr: Learning rate of AdamW.
        factor: The matrices' learning rate is this many times as high.
        momentum: Of the matrices.
        weight_decay: Of both.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter],
        lr: float,
        factor: float,
        momentum: float,
        weight_decay: float,
    ) -> None:
        values = list(others)
        groups = [
            {"params": [p for p in values if p.dim() > 1], "weight_decay": weight_decay},
            {"params": [p for p in values if p.dim() <= 1], "weight_decay": 0.0},
        ]
        self._adamw = torch.optim.AdamW(groups, lr=lr)
        super().__init__(
            matrices, {"lr": lr, "factor": factor, "momentum": momentum, "weight_decay": weight_decay}
        )
        self.param_groups += self._adamw.param_groups
        self._adamw.state = self.state

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make a step; parameters without a gradient stay."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        group: dict[str, Any] = self.param_groups[0]
        rate, momentum = group["lr"] * group["factor"], group["momentum"]
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            gradient = parameter.grad.reshape(parameter.shape[0], -1).float()
            buffer = self.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter.grad))
            average = buffer.view_as(gradient).lerp_(gradient, 1 - momentum)
            update = orthogonalized(gradient.lerp(average, momentum))
            scale = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
            parameter.mul_(1 - rate * group["weight_decay"])
            parameter.add_(update.reshape(parameter.shape), alpha=-rate * scale)
        self._adamw.step()
        return loss
