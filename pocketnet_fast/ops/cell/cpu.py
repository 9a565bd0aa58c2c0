"""The CPU's entry to ``pocketnet_fast::cell``; the kernels are in ``csrc/``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pocketnet_fast.ops.cell.autograd import register
from pocketnet_fast.ops.cell.structure import Operation, encode

register()


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
        RuntimeError: A wrong dtype, shape or device, or an instruction set that ``PNF_FORCE_ISA`` names
            and the CPU lacks.
    """
    structure, epsilon = encode(operations)
    sums, mean, variance = torch.ops.pocketnet_fast.cell(list(inputs), list(parameters), structure, epsilon)
    return sums, mean, variance
