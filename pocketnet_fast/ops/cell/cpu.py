"""Registration of ``pocketnet_fast::cell`` in Python; the kernels are in ``csrc/``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pocketnet_fast.ops.cell.autograd import register
from pocketnet_fast.ops.cell.structure import Operation, decode, encode

register()


@torch.library.register_fake("pocketnet_fast::cell")
def _fake(
    inputs: list[Tensor], parameters: list[Tensor], structure: list[int], epsilon: list[float]
) -> tuple[list[Tensor], Tensor, Tensor]:
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
    results = [
        torch.empty((like.shape[0], *size), device=like.device, memory_format=torch.channels_last)
        for size in sums
    ]
    mean = like.new_empty((normalized,), dtype=torch.float64)
    return results, mean, torch.empty_like(mean)


@torch.library.register_fake("pocketnet_fast::cell_backward")
def _fake_backward(
    grads: list[Tensor],
    states: list[Tensor],
    parameters: list[Tensor],
    mean: Tensor,
    variance: Tensor,
    structure: list[int],
    epsilon: list[float],
) -> list[Tensor]:
    inputs = states[: len(states) - len(grads)]
    by_inputs = [torch.empty_like(x, memory_format=torch.channels_last) for x in inputs]
    return by_inputs + [p.new_empty(p.shape) for p in parameters]


def cell(
    inputs: Sequence[Tensor], parameters: Sequence[Tensor], operations: Sequence[Operation]
) -> tuple[list[Tensor], Tensor, Tensor]:
    """``cell_reference`` for the CPU, on torch's threads, saving the states and the moments only.

    The backward pass computes everything else again, and cannot be differentiated. Gradients of the moments
    are ignored. Equal inputs and an equal number of threads give equal bits; the forward pass gives them on
    any number of threads.

    Args:
        inputs: float32 N,C,H,W; read as channels-last, and copied if they are not.
        parameters: float32, as the reference takes them.
        operations: Likewise; an offset needs even sizes.

    Returns:
        The sums, channels-last; means and biased variances, float64.

    Raises:
        RuntimeError: On a wrong dtype, shape or device, or an instruction set that ``PNF_FORCE_ISA`` names
            and the CPU lacks.
    """
    structure, epsilon = encode(operations)
    sums, mean, variance = torch.ops.pocketnet_fast.cell(list(inputs), list(parameters), structure, epsilon)
    return sums, mean, variance
