"""The derivative and the shapes of ``pocketnet_fast::cell``, which all devices share."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import torch
from torch import Tensor

from pocketnet_fast.ops.cell.structure import decode
from pocketnet_fast.ops.devices import on_one_device
from pocketnet_fast.ops.registration import register_differentiable

NAME = "pocketnet_fast::cell"


def product_dtype(device: str) -> torch.dtype:
    """The type in which autocast wants matrix products on a device just now; float32 without it."""
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32


def autocast_to(dtype: torch.dtype, device: str) -> contextlib.AbstractContextManager[Any]:
    """Let ``product_dtype`` be ``dtype``: a backward pass runs outside the context of its forward pass."""
    if product_dtype(device) == dtype:
        return contextlib.nullcontext()
    return torch.autocast(device, dtype, dtype != torch.float32)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[list[Tensor], Tensor, Tensor]) -> None:
    tensors, parameters, ctx.structure, ctx.epsilon = inputs
    sums, mean, variance = output
    ctx.inputs, ctx.states = len(tensors), len(tensors) + len(sums)
    ctx.product_dtype = product_dtype(mean.device.type)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, *sums, *parameters, mean, variance)


def _backward(ctx: Any, grads: list[Tensor | None], *_: Tensor | None) -> tuple[Any, ...]:
    *tensors, mean, variance = ctx.saved_tensors
    states, parameters = tensors[: ctx.states], tensors[ctx.states :]
    # An empty tensor stands for a sum that nothing after the cell depends on.
    given = [mean.new_empty(0, dtype=states[0].dtype) if grad is None else grad for grad in grads]
    with autocast_to(ctx.product_dtype, mean.device.type):
        found = torch.ops.pocketnet_fast.cell_backward(
            given, states, parameters, mean, variance, ctx.structure, ctx.epsilon
        )
    # A cell without normalisations has no epsilon: torch takes the empty list for one of tensors, and wants a
    # list back.
    return found[: ctx.inputs], found[ctx.inputs :], None, None if ctx.epsilon else []


def _fake(
    inputs: list[Tensor], parameters: list[Tensor], structure: list[int], epsilon: list[float]
) -> tuple[list[Tensor], Tensor, Tensor]:
    on_one_device("cell", (*inputs, *parameters))
    states = [(x.shape[1], x.shape[2], x.shape[3]) for x in inputs]
    sums: list[tuple[int, int, int]] = []
    remaining = iter(parameters)
    normalized = 0
    for operation in decode(structure):
        channels, height, width = (states + sums)[operation.first_state]
        channels *= operation.parts
        own = [next(remaining) for _ in range(operation.kind.parameters)]
        if own:
            channels = own[-1].shape[0]
        if operation.kind.normalizes:
            normalized += channels
        reached = operation.first_out + channels
        if operation.sum < len(sums):
            reached = max(reached, sums.pop()[0])
        stride = operation.stride
        sums.append((reached, -(-height // stride), -(-width // stride)))
    like = inputs[0]
    results = [like.new_empty((like.shape[0], *size)).to(memory_format=torch.channels_last) for size in sums]
    mean = like.new_empty((normalized,), dtype=torch.float64)
    return results, mean, torch.empty_like(mean)


def _fake_backward(
    grads: list[Tensor], states: list[Tensor], parameters: list[Tensor], *moments_and_structure: Any
) -> list[Tensor]:
    on_one_device("cell", (*grads, *states, *parameters, *moments_and_structure[:2]))
    inputs = states[: len(states) - len(grads)]
    by_inputs = [torch.empty_like(x, memory_format=torch.channels_last) for x in inputs]
    return by_inputs + [p.new_empty(p.shape) for p in parameters]


@functools.cache
def register() -> None:
    """Register the operator with its derivative, once."""
    register_differentiable(
        NAME,
        fake=_fake,
        fake_backward=_fake_backward,
        backward=_backward,
        setup_context=_setup_context,
        no_second="the fused cells cannot be differentiated twice; set fused=False on the model for that",
    )
