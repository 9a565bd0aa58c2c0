"""``pocketnet_fast::margin_cross_entropy`` for CUDA, by the kernels of ``triton_kernels``.

What is small, N x D at most, is plain PyTorch in float64: the lengths of the embeddings, the label's cosine
and its terms of the gradients, which are unbounded as the cosine approaches 1, and the sums over splits.
Tiles load in wide vectors where the number of classes is a multiple of 16.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from triton import next_power_of_2

from pocketnet_fast.ops.margin_cross_entropy import triton_kernels as kernels
from pocketnet_fast.ops.margin_cross_entropy.autograd import register
from pocketnet_fast.ops.margin_cross_entropy.reference import EPSILON

NAME = "pocketnet_fast::margin_cross_entropy"


@dataclass(frozen=True)
class Tiles:
    """Shape of a program's tiles, powers of two of at least 16, and its threads.

    Attributes:
        samples: Rows of a tile of logits.
        classes: Columns of a tile of logits.
        inner: Dimensions of one step of the product that gives the logits.
        outer: Most dimensions of a gradient's tile; programs for further ones compute the logits anew.
        warps: Warps of a program.
        stages: Depth of the software pipeline.
    """

    samples: int
    classes: int
    inner: int
    outer: int
    warps: int
    stages: int


# float32 multiplies on the ordinary units ("ieee"), where larger tiles spill; bfloat16 on the tensor cores.
_FLOAT32 = Tiles(samples=64, classes=64, inner=32, outer=128, warps=8, stages=2)
_BFLOAT16 = Tiles(samples=64, classes=64, inner=64, outer=128, warps=8, stages=2)
_PRECISION = "ieee"


def _tiles(rows: Tensor) -> Tiles:
    return _BFLOAT16 if rows.dtype == torch.bfloat16 else _FLOAT32


def _programs(device: torch.device) -> int:
    """Programs that keep a device busy; under the interpreter a few, so that it divides sums as well."""
    if device.type == "cpu":
        return 6
    return 4 * torch.cuda.get_device_properties(device).multi_processor_count


def _divided(wanted: int, classes: int, tile: int) -> tuple[int, int]:
    """Number of splits of the classes, at most ``wanted``, and the classes of each: whole tiles."""
    blocks = -(-classes // tile)
    per_split = -(-blocks // max(1, min(wanted, blocks)))
    return -(-blocks // per_split), per_split * tile


class _Rows:
    """The embeddings: in float64, and as an operand of products.

    ``operand`` is scaled by a power of two, which rounds nothing, to lengths in [1/2, 1), so that no finite
    embedding overflows.
    """

    def __init__(self, embedding: Tensor, kernel: Tensor) -> None:
        exact = embedding.double()
        self.length = exact.square().sum(1).sqrt()
        self.inverse = torch.where(self.length > EPSILON, 1.0 / self.length, 0.0)
        self.unit = exact * self.inverse.unsqueeze(1)
        power = torch.ldexp(torch.ones_like(self.length), torch.frexp(self.length).exponent)
        dtype = torch.promote_types(embedding.dtype, kernel.dtype)
        self.operand = (exact / power.unsqueeze(1)).to(dtype).contiguous()
        self.operand_inverse = (self.inverse * power).float()


class _Targets:
    """The label's column of each sample, N,D float64 of unit length, and its cosine; zero without a label."""

    def __init__(self, rows: _Rows, kernel: Tensor, label: Tensor) -> None:
        present = label >= 0
        column = kernel.index_select(1, label.clamp(0, kernel.shape[1] - 1)).T.double()
        length = column.square().sum(1).sqrt()
        self.inverse = torch.where(present & (length > EPSILON), 1.0 / length, 0.0)
        self.unit = torch.where(present.unsqueeze(1), column, 0.0) * self.inverse.unsqueeze(1)
        self.cosine = (rows.unit * self.unit).sum(1).clamp(-1.0, 1.0)


def _column_inverse(kernel: Tensor) -> Tensor:
    classes, tile = kernel.shape[1], 128
    inverse = torch.empty(classes, dtype=torch.float32, device=kernel.device)
    kernels.column_inverse_kernel[(-(-classes // tile),)](
        kernel, inverse, *kernel.shape, *kernel.stride(), CLASSES=tile, INNER=16, num_warps=4
    )
    return inverse


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise RuntimeError(f"margin_cross_entropy: {message}")


def _check(embedding: Tensor, kernel: Tensor, label: Tensor, scale: float) -> None:
    for name, tensor in (("embedding", embedding), ("kernel", kernel)):
        known = tensor.dtype in (torch.float32, torch.bfloat16)
        _require(known, f"{name} must be float32 or bfloat16, got {tensor.dtype}")
    _require(label.dtype == torch.int64, f"label must be int64, got {label.dtype}")
    _require(
        embedding.dim() == kernel.dim() == 2 and embedding.shape[1] == kernel.shape[0],
        "embedding must be N, D and kernel D, classes",
    )
    _require(label.shape == embedding.shape[:1], "label must have one entry a sample")
    _require(kernel.numel() > 0, "kernel must have dimensions and classes")
    _require(max(len(label), *kernel.shape) < 2**30, "at most 2^30 samples, dimensions and classes")
    _require(embedding.device == kernel.device == label.device, "every tensor must be on one device")
    _require(math.isfinite(scale) and scale > 0.0, f"scale must be positive and finite, got {scale}")


def _check_values(length: Tensor, column_inverse: Tensor, label: Tensor) -> None:
    """The one point of the forward pass where the host waits for the device."""
    classes = len(column_inverse)
    wrong = (label < -1) | (label >= classes), ~length.isfinite(), ~column_inverse.isfinite()
    if not any(torch.stack([places.any() for places in wrong]).tolist()):
        return
    sample, row, column = (int(places.nonzero()[0]) if places.any() else -1 for places in wrong)
    _require(sample < 0, f"labels must lie in 0..{classes - 1}; sample {sample} has {int(label[sample])}")
    _require(row < 0, f"embedding must be finite; row {row} is not")
    _require(column < 0, f"kernel must be finite; column {column} is not")


def forward(
    embedding: Tensor, kernel: Tensor, label: Tensor, scale: float, bf16_products: bool = False
) -> tuple[Tensor, Tensor]:
    """The operator as ``cpu.margin_cross_entropy`` describes it; ``embedding`` may be bfloat16 as well.

    Raises:
        RuntimeError: As on the CPU. Labels and lengths are examined on the device, before anything is read by
            a label, and the host waits once for the finding: the call cannot be captured in a CUDA graph.
    """
    _check(embedding, kernel, label, scale)
    _require(not bf16_products, "bf16_products are the CPU's; here operands have the kernel's dtype")
    samples, classes = len(label), kernel.shape[1]
    with torch.cuda.device_of(embedding):
        rows = _Rows(embedding, kernel)
        column_inverse = _column_inverse(kernel)
        _check_values(rows.length, column_inverse, label)
        cosine = _Targets(rows, kernel, label).cosine
        if samples == 0:
            return torch.empty_like(cosine), cosine
        label = label.contiguous()
        tiles = _tiles(rows.operand)
        row_tiles = -(-samples // tiles.samples)
        splits, per_split = _divided(_programs(embedding.device) // row_tiles, classes, tiles.classes)
        largest, total = torch.empty((2, splits, samples), dtype=torch.float32, device=embedding.device)
        kernels.forward_kernel[(row_tiles, splits)](
            rows.operand,
            rows.operand_inverse,
            kernel,
            column_inverse,
            label,
            largest,
            total,
            samples,
            classes,
            *kernel.stride(),
            scale,
            per_split,
            DIMS=kernel.shape[0],
            SAMPLES=tiles.samples,
            CLASSES=tiles.classes,
            INNER=tiles.inner,
            PRECISION=_PRECISION,
            num_warps=tiles.warps,
            num_stages=tiles.stages,
        )
        shift = largest.amax(0).double()
        return shift + (total * (largest - shift).exp()).sum(0).log(), cosine


def backward(
    embedding: Tensor,
    kernel: Tensor,
    label: Tensor,
    scale: float,
    others: Tensor,
    grad_others: Tensor,
    grad_cosine: Tensor,
    bf16_products: bool = False,
) -> tuple[Tensor, Tensor]:
    """Gradients for ``embedding`` and ``kernel`` of the tensors that ``forward`` returned, in their dtypes.

    Values are not examined again, and the host does not wait. What ``forward`` would refuse gives gradients
    without meaning, and reads nothing beside the kernel.
    """
    _check(embedding, kernel, label, scale)
    samples, (dims, classes) = len(label), kernel.shape
    grad_kernel = torch.empty((dims, classes), dtype=kernel.dtype, device=kernel.device)
    if samples == 0:
        return torch.empty_like(embedding), grad_kernel.zero_()
    with torch.cuda.device_of(embedding):
        rows = _Rows(embedding, kernel)
        column_inverse = _column_inverse(kernel)
        targets = _Targets(rows, kernel, label)
        shift = torch.where(others == -math.inf, 0.0, others).float()
        weight = torch.where(others == -math.inf, 0.0, grad_others * scale * (shift - others).exp()).float()
        label = label.contiguous()
        tiles = _tiles(rows.operand)
        outer = min(tiles.outer, max(16, next_power_of_2(dims)))
        row_tiles, dim_tiles = -(-samples // tiles.samples), -(-dims // outer)
        splits, per_split = _divided(
            _programs(embedding.device) // (2 * row_tiles * dim_tiles), classes, tiles.classes
        )
        row_sums = torch.empty((splits, samples, dims), dtype=torch.float32, device=embedding.device)
        operands = rows.operand, rows.operand_inverse, kernel, column_inverse, label, shift, weight
        sizes = samples, classes, *kernel.stride(), scale
        options: dict[str, Any] = {
            "DIMS": dims,
            "SAMPLES": tiles.samples,
            "CLASSES": tiles.classes,
            "INNER": tiles.inner,
            "OUTER": outer,
            "PRECISION": _PRECISION,
            "num_warps": tiles.warps,
            "num_stages": tiles.stages,
        }
        kernels.grad_rows_kernel[(row_tiles, splits, dim_tiles)](
            *operands, row_sums, *sizes, per_split, **options
        )

        by_cosine, cosine = grad_cosine.unsqueeze(1), targets.cosine.unsqueeze(1)
        across = rows.unit - cosine * targets.unit
        label_terms = (by_cosine * across * targets.inverse.unsqueeze(1)).float().contiguous()
        ordered = label.sort(stable=True)
        class_tiles = -(-classes // tiles.classes)
        borders = torch.arange(class_tiles + 1, device=label.device) * tiles.classes
        label_ends = torch.searchsorted(ordered.values, borders)
        kernels.grad_kernel_kernel[(class_tiles, dim_tiles)](
            *operands, label_terms, ordered.indices, label_ends, grad_kernel, *sizes, **options
        )
        total = row_sums.sum(0, dtype=torch.float64)
        across = total - (total * rows.unit).sum(1, keepdim=True) * rows.unit
        across = across + by_cosine * (targets.unit - cosine * rows.unit)
        grad_embedding = across * rows.inverse.unsqueeze(1)
    return grad_embedding.to(embedding.dtype), grad_kernel


class _Interpreted(torch.autograd.Function):
    """The operator on CPU tensors, where the dispatcher would choose the C++ kernels."""

    @staticmethod
    def forward(
        ctx: Any, embedding: Tensor, kernel: Tensor, label: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        others, cosine = forward(embedding, kernel, label, scale)
        ctx.save_for_backward(embedding, kernel, label, others)
        ctx.scale = scale
        return others, cosine

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_others: Tensor, grad_cosine: Tensor) -> tuple[Tensor, Tensor, None, None]:
        embedding, kernel, label, others = ctx.saved_tensors
        gradients = backward(embedding, kernel, label, ctx.scale, others, grad_others, grad_cosine)
        return *gradients, None, None


def margin_cross_entropy(
    embedding: Tensor, kernel: Tensor, label: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """As ``cpu.margin_cross_entropy``, on CUDA, or under Triton's interpreter on the CPU.

    Raises:
        RuntimeError: As ``forward``.
    """
    if embedding.device.type == "cpu":
        others, cosine = _Interpreted.apply(embedding, kernel, label, scale)
    else:
        others, cosine = torch.ops.pocketnet_fast.margin_cross_entropy(embedding, kernel, label, scale)
    return others, cosine


register()
torch.library.impl(NAME, "cuda", forward)
torch.library.impl(f"{NAME}_backward", "cuda", backward)
