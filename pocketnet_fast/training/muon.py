"""Muon: momentum made orthogonal for the matrices of a network, AdamW for everything else.

K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024). torch.optim.Muon takes
two-dimensional parameters alone and computes in bfloat16; here they are convolutions, small enough for
float32.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm

# Of the published quintic iteration, which brings singular values near 1 in few steps without converging.
_COEFFICIENTS: Final = (3.4445, -4.7750, 2.0315)
_STEPS: Final = 5


def orthogonalized(matrices: Tensor) -> Tensor:
    """Matrices N,rows,columns with all singular values brought to about 1 (0.7 to 1.2), each for itself."""
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (vector_norm(x, dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


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
        momentum: The momentum of the matrices.
        weight_decay: The weight decay of both.
        fused: Whether AdamW makes a step in one pass over each parameter, which must be contiguous.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter],
        lr: float,
        factor: float,
        momentum: float,
        weight_decay: float,
        *,
        fused: bool = False,
    ) -> None:
        values = list(others)
        groups = [
            {"params": [p for p in values if p.dim() > 1], "weight_decay": weight_decay},
            {"params": [p for p in values if p.dim() <= 1], "weight_decay": 0.0},
        ]
        self._adamw = torch.optim.AdamW(groups, lr=lr, fused=fused or None)
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
        self._move_matrices(self.param_groups[0])
        self._adamw.step()
        return loss

    def _move_matrices(self, group: dict[str, Any]) -> None:
        rate, momentum = group["lr"] * group["factor"], group["momentum"]
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        if not parameters:
            return
        gradients = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter.grad)
        averages = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_lerp_(averages, gradients, 1 - momentum)
        directions = torch._foreach_lerp(gradients, averages, momentum)
        torch._foreach_mul_(parameters, 1 - rate * group["weight_decay"])
        # A network has many matrices of few shapes, most of them too small to be worth calls of their own.
        alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, direction in enumerate(directions):
            alike[direction.flatten(1).shape].append(index)
        for (rows, columns), indices in alike.items():
            updates = orthogonalized(torch.stack([directions[index].flatten(1) for index in indices]))
            moved = [parameters[index] for index in indices]
            steps = [
                update.reshape(parameter.shape) for update, parameter in zip(updates, moved, strict=True)
            ]
            torch._foreach_add_(moved, steps, alpha=-rate * max(1.0, rows / columns) ** 0.5)
