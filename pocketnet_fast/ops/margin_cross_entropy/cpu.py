"""Registration of ``pocketnet_fast::margin_cross_entropy`` in Python; the kernels are in ``csrc/``."""

from __future__ import annotations

import torch
from torch import Tensor

from pocketnet_fast.ops.margin_cross_entropy.autograd import register

register()


def margin_cross_entropy(
    embedding: Tensor, kernel: Tensor, label: Tensor, scale: float, bf16_products: bool = False
) -> tuple[Tensor, Tensor]:
    """``margin_cross_entropy_reference`` without its N x classes logits, for the CPU, on torch's threads.

    The gradients of both results are computed from the same blocks of logits, recomputed; they cannot be
    differentiated again. Equal inputs and an equal number of threads give equal bits.

    Args:
        embedding: float32 N,D; any strides.
        kernel: float32 or bfloat16 D,classes; copied unless contiguous.
        label: int64 N: the class, or -1 for a class that ``kernel`` does not hold.
        scale: Factor of the cosines.
        bf16_products: Round what is multiplied to bfloat16, where the instruction set in use multiplies pairs
            of it (elsewhere that would be slower, and nothing is rounded); sums stay float32.

    Returns:
        Two float64 tensors of N: ``log sum exp`` over all classes but the label, and the label's cosine.

    Raises:
        RuntimeError: A wrong dtype, shape or device, a label outside -1..classes-1, an embedding or a
            column of the kernel that is not finite (for a column: whose squared length overflows float32), or
            an instruction set that ``PNF_FORCE_ISA`` names and the CPU lacks.
    """
    others, cosine = torch.ops.pocketnet_fast.margin_cross_entropy(
        embedding, kernel, label, scale, bf16_products
    )
    return others, cosine
