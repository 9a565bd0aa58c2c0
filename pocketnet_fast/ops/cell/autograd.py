"""The derivative of ``pocketnet_fast::cell``."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

from pocketnet_fast.ops.native import extension


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[list[Tensor], Tensor, Tensor]) -> None:
    tensors, parameters, ctx.structure, ctx.epsilon = inputs
    sums, mean, variance = output
    ctx.inputs, ctx.states = len(tensors), len(tensors) + len(sums)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, *sums, *parameters, mean, variance)


def _backward(ctx: Any, grads: list[Tensor | None], *_: Tensor | None) -> tuple[Any, ...]:
    *tensors, mean, variance = ctx.saved_tensors
    states, parameters = tensors[: ctx.states], tensors[ctx.states :]
    # An empty tensor stands for a sum that nothing after the cell depends on.
    given = [mean.new_empty(0, dtype=torch.float32) if grad is None else grad for grad in grads]
    found = torch.ops.pocketnet_fast.cell_backward(
        given, states, parameters, mean, variance, ctx.structure, ctx.epsilon
    )
    # A cell without normalisations has no epsilon: torch takes the empty list for one of tensors, and wants a
    # list back.
    return found[: ctx.inputs], found[ctx.inputs :], None, None if ctx.epsilon else []


def _refuse(*_: Any) -> NoReturn:
    raise RuntimeError(
        "the fused cells cannot be differentiated twice; set fused=False on the model for that"
    )


def register() -> None:
    """Give the operator its derivative, and its derivative a refusal; call once."""
    extension()
    name = "pocketnet_fast::cell"
    torch.library.register_autograd(name, _backward, setup_context=_setup_context)
    torch.library.register_autograd(f"{name}_backward", _refuse)
