"""Registration of ``pocketnet_fast::run_plan`` in Python; the kernels are in ``csrc/``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pocketnet_fast.ops.devices import on_one_device
from pocketnet_fast.ops.native import extension

extension()


@torch.library.register_fake("pocketnet_fast::run_plan")
def _fake(
    pixels: Tensor, program: Tensor, weights: Tensor, embedding: int, threads: int, flip: bool
) -> Tensor:
    on_one_device("run_plan", (pixels, program, weights))
    return pixels.new_empty((pixels.shape[0], embedding), dtype=torch.float32)


def _backward(ctx: Any, grad: Tensor) -> Any:
    raise RuntimeError(
        "run_plan: the fused kernels have no gradient; take the eager model, or detach the embeddings"
    )


# Without it, torch's fallback warns and leaves the gradient of the input empty.
torch.library.register_autograd("pocketnet_fast::run_plan", _backward)


def run_plan(
    pixels: Tensor, program: Tensor, weights: Tensor, embedding: int, threads: int = 0, flip: bool = False
) -> Tensor:
    """Run a lowered network.

    Args:
        pixels: float32 N,3,H,W, normalised RGB, or uint8 N,H,W,3 in the program's colour order; any strides.
        program: int32 words, from ``Plan.encode``.
        weights: float32, from ``Plan.encode``.
        embedding: Length of an embedding.
        threads: 0 takes torch's number of threads; never more than the process has processors.
        flip: Return the sum of the embeddings of each image and of its mirror image.

    Returns:
        float32 N,``embedding``. A NaN or infinite pixel makes the embedding of its own image
        non-finite, and no other.

    Raises:
        RuntimeError: A wrong dtype, shape or device, a damaged program, or an instruction set that
            ``PNF_FORCE_ISA`` names and the CPU lacks; from ``backward()``, as there is no gradient.
    """
    out: Tensor = torch.ops.pocketnet_fast.run_plan(pixels, program, weights, embedding, threads, flip)
    return out
