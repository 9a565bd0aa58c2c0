"""The derivative and the shapes of ``pocketnet_fast::margin_cross_entropy``, which all devices share."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from pocketnet_fast.ops.devices import on_one_device
from pocketnet_fast.ops.registration import register_differentiable


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    embedding, kernel, label, ctx.scale, ctx.bf16_products = inputs
    ctx.save_for_backward(embedding, kernel, label, output[0])


def _backward(
    ctx: Any, grad_others: Tensor, grad_cosine: Tensor
) -> tuple[Tensor | None, Tensor | None, None, None, None]:
    embedding, kernel, label, others = ctx.saved_tensors
    by_embedding, by_kernel = torch.ops.pocketnet_fast.margin_cross_entropy_backward(
        embedding, kernel, label, ctx.scale, others, grad_others, grad_cosine, ctx.bf16_products
    )
    wanted = ctx.needs_input_grad
    return by_embedding if wanted[0] else None, by_kernel if wanted[1] else None, None, None, None


def _fake(
    embedding: Tensor, kernel: Tensor, label: Tensor, scale: float, bf16_products: bool = False
) -> tuple[Tensor, Tensor]:
    on_one_device("margin_cross_entropy", (embedding, kernel, label))
    others = embedding.new_empty((embedding.shape[0],), dtype=torch.float64)
    return others, torch.empty_like(others)


def _fake_backward(
    embedding: Tensor, kernel: Tensor, label: Tensor, scale: float, *rest: Any
) -> tuple[Tensor, Tensor]:
    on_one_device("margin_cross_entropy", (embedding, kernel, label, *rest[:3]))
    return embedding.new_empty(embedding.shape), kernel.new_empty(kernel.shape)


@functools.cache
def register() -> None:
    """Register the operator with its derivative, once."""
    register_differentiable(
        "pocketnet_fast::margin_cross_entropy",
        fake=_fake,
        fake_backward=_fake_backward,
        backward=_backward,
        setup_context=_setup_context,
        no_second="the fused margin softmax cannot be differentiated twice; use implementation='reference' "
        "for that",
    )
