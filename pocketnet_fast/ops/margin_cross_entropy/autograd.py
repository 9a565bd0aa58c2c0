"""The derivative of ``pocketnet_fast::margin_cross_entropy``."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

from pocketnet_fast.ops.native import extension


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    embedding, kernel, label, ctx.scale = inputs
    ctx.save_for_backward(embedding, kernel, label, output[0])


def _backward(
    ctx: Any, grad_others: Tensor, grad_cosine: Tensor
) -> tuple[Tensor | None, Tensor | None, None, None]:
    embedding, kernel, label, others = ctx.saved_tensors
    by_embedding, by_kernel = torch.ops.pocketnet_fast.margin_cross_entropy_backward(
        embedding, kernel, label, ctx.scale, others, grad_others, grad_cosine
    )
    wanted = ctx.needs_input_grad
    return by_embedding if wanted[0] else None, by_kernel if wanted[1] else None, None, None


def _refuse(*_: Any) -> NoReturn:
    raise RuntimeError(
        "the fused margin softmax cannot be differentiated twice; use implementation='reference' for that"
    )


def register() -> None:
    """Give the operator its derivative, and its derivative a refusal; call once."""
    extension()
    name = "pocketnet_fast::margin_cross_entropy"
    torch.library.register_autograd(name, _backward, setup_context=_setup_context)
    torch.library.register_autograd(f"{name}_backward", _refuse)
