"""Margin softmax cross entropy with a distillation term, in one call."""

from __future__ import annotations

import importlib.util
from typing import Literal

import torch
from torch import Tensor

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.ops.margin_cross_entropy.options import MarginOptions
from pocketnet_fast.ops.margin_cross_entropy.reference import (
    cross_entropy,
    margin_cross_entropy_reference,
    unit,
)

Implementation = Literal["auto", "fused", "triton", "reference"]
Precision = Literal["fp32", "bf16"]

_DTYPES = (torch.float32, torch.float64, torch.bfloat16)
_FUSED_DTYPES = (torch.float32, torch.bfloat16)


def margin_cross_entropy(
    embedding: Tensor,
    kernel: Tensor,
    label: Tensor,
    *,
    scale: float = 64.0,
    margins: tuple[float, float, float] = (1.0, 0.5, 0.0),
    easy_margin: bool = False,
    teacher: Tensor | None = None,
    kd_weight: float = 0.0,
    implementation: Implementation = "auto",
    precision: Precision = "fp32",
) -> Tensor:
    """Mean margin softmax cross entropy (ArcFace, arXiv 1801.07698, eq. 4) plus a distillation term.

    Embeddings and the columns of the kernel are L2-normalised inside; a vector no longer than 1e-12 counts as
    zero, with cosine 0 and gradient 0. The label's cosine is clamped to [-1, 1], and gradients there are
    finite. The default margins are ArcFace's, ``(1, 0, 0.35)`` are CosFace's (arXiv 1801.09414); what lies
    beyond an angle of pi is described at ``MarginOptions``. The distillation term is ``distillation_loss``
    times ``kd_weight`` (PocketNet, arXiv 2108.10710).

    Args:
        embedding: N,D, float32, float64 or bfloat16; any strides.
        kernel: D,classes, one of the same dtypes, on the same device; the published layout.
        label: int64 N, from 0 to classes - 1.
        scale: Factor of the cosines.
        margins: ``(m1, m2, m3)`` of ``cos(m1 * theta + m2) - m3``.
        easy_margin: Apply margins only where the label's cosine is positive.
        teacher: N,D floating point: the teacher's embeddings, not normalised; it receives no gradient.
        kd_weight: Factor of the distillation term; positive values need a teacher.
        implementation: ``"fused"``, for the CPU, and ``"triton"``, for CUDA, take float32 and bfloat16, sum
            in float32 and never hold the N x classes logits; they cannot be differentiated twice.
            ``"reference"`` is plain PyTorch. ``"auto"`` is the device's one of the first two, and the
            reference for float64 and on other devices. Under ``TRITON_INTERPRET=1`` the Triton kernels run on
            the CPU, slowly, for tests.
        precision: ``"bf16"``, of the fused implementation, multiplies normalised embeddings, normalised
            columns and the gradient of the logits in bfloat16 where the CPU multiplies pairs of it; elsewhere
            it changes nothing. Sums, the label's terms and the kernel stay as they are.

    Returns:
        The scalar loss, float32 (float64 where an input is). It is 0 for an empty batch.

    Raises:
        PocketNetError: A wrong shape, dtype or device, a label outside 0..classes-1, an embedding or
            teacher that is not finite, bad options, or an implementation that cannot run there.
        RuntimeError: A column of the kernel is not finite (not by the reference).

    Examples:
        >>> loss = margin_cross_entropy(embedding, kernel, label, margins=(1.0, 0.0, 0.35))
        >>> loss.backward()
    """
    options = MarginOptions(scale, *margins, easy_margin=easy_margin)
    check_inputs(embedding, kernel, label)
    check_labels(label, kernel.shape[1])
    others, cosine = margin_terms(embedding, kernel, label, scale, implementation, precision)
    loss = cross_entropy(others, cosine, options).sum() / max(embedding.shape[0], 1)
    loss = loss.to(torch.promote_types(torch.promote_types(embedding.dtype, kernel.dtype), torch.float32))
    if check_teacher(embedding, teacher, kd_weight):
        assert teacher is not None
        loss = loss + kd_weight * distillation_loss(embedding, teacher)
    return loss


def distillation_loss(embedding: Tensor, teacher: Tensor) -> Tensor:
    """Mean over all N*D elements of the squared difference of the L2-normalised embeddings.

    Args:
        embedding: N,D floating point.
        teacher: N,D floating point; it receives no gradient.

    Returns:
        A scalar, float32 (float64 where an input is); 0 for an empty batch.

    Examples:
        >>> loss = 100 * distillation_loss(embedding, teacher(images))
    """
    precision = torch.promote_types(torch.promote_types(embedding.dtype, teacher.dtype), torch.float32)
    difference = unit(embedding.to(precision), 1) - unit(teacher.detach().to(precision), 1)
    return difference.square().sum() / max(difference.numel(), 1)


def margin_terms(
    embedding: Tensor,
    kernel: Tensor,
    label: Tensor,
    scale: float,
    implementation: Implementation,
    precision: Precision = "fp32",
) -> tuple[Tensor, Tensor]:
    """What ``margin_cross_entropy_reference`` returns, by the chosen implementation."""
    if implementation not in ("auto", "fused", "triton", "reference"):
        raise PocketNetError(
            f"implementation must be 'auto', 'fused', 'triton' or 'reference', got {implementation!r}"
        )
    if precision not in ("fp32", "bf16"):
        raise PocketNetError(f"precision must be 'fp32' or 'bf16', got {precision!r}")
    chosen = _automatic(embedding, kernel) if implementation == "auto" else implementation
    if precision == "bf16" and chosen != "fused":
        raise PocketNetError(
            f"precision 'bf16' is of the fused margin softmax; it is {chosen!r} that runs here"
        )
    if chosen == "reference":
        return margin_cross_entropy_reference(embedding, kernel, label, scale)
    obstacle = _obstacle(chosen, embedding, kernel)
    if obstacle is not None:
        raise PocketNetError(f"the {chosen} margin softmax cannot run: {obstacle}")
    if chosen == "fused":
        from pocketnet_fast.ops.margin_cross_entropy import cpu

        return cpu.margin_cross_entropy(embedding.float(), kernel, label, scale, precision == "bf16")
    from pocketnet_fast.ops.margin_cross_entropy import triton_launch

    return triton_launch.margin_cross_entropy(embedding, kernel, label, scale)


def _automatic(embedding: Tensor, kernel: Tensor) -> Implementation:
    if embedding.dtype not in _FUSED_DTYPES or kernel.dtype not in _FUSED_DTYPES:
        return "reference"
    chosen: dict[str, Implementation] = {"cpu": "fused", "cuda": "triton"}
    return chosen.get(embedding.device.type, "reference")


def _obstacle(implementation: Implementation, embedding: Tensor, kernel: Tensor) -> str | None:
    """Why the fused or the Triton kernels cannot take these tensors."""
    for name, tensor in (("embedding", embedding), ("kernel", kernel)):
        if tensor.dtype not in _FUSED_DTYPES:
            return f"{name} is {tensor.dtype}; it takes float32 and bfloat16"
    device = embedding.device.type
    if implementation == "fused":
        return None if device == "cpu" else f"it is for the CPU, and the tensors are on {device}"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install 'pocketnet_fast[gpu]'); 'reference' runs without it"
    if device == "cuda" or (device == "cpu" and _interpreted()):
        return None
    return f"it is for CUDA, or the CPU under TRITON_INTERPRET=1, and the tensors are on {device}"


def _interpreted() -> bool:
    from pocketnet_fast.ops.triton_numerics import INTERPRETED

    return bool(INTERPRETED.value)


def check_inputs(embedding: Tensor, kernel: Tensor, label: Tensor) -> None:
    """Shapes, dtypes, devices, and that the embeddings are finite."""
    for name, tensor in (("embedding", embedding), ("kernel", kernel)):
        if tensor.dtype not in _DTYPES:
            raise PocketNetError(f"{name} must be float32, float64 or bfloat16, got {tensor.dtype}")
    if embedding.dim() != 2 or kernel.dim() != 2 or embedding.shape[1] != kernel.shape[0]:
        raise PocketNetError(
            f"embedding must be N,D and kernel D,classes, got {_shape(embedding)} and {_shape(kernel)}"
        )
    if kernel.shape[0] == 0 or kernel.shape[1] == 0:
        raise PocketNetError(f"kernel must have dimensions and classes, got {_shape(kernel)}")
    if label.dtype != torch.int64 or label.shape != embedding.shape[:1]:
        raise PocketNetError(
            f"label must be int64 of shape {embedding.shape[0]}, got {label.dtype} of shape {_shape(label)}"
        )
    if not embedding.device == kernel.device == label.device:
        raise PocketNetError(
            f"embedding, kernel and label must share a device, got {embedding.device}, {kernel.device} "
            f"and {label.device}"
        )
    _check_finite("embedding", embedding)


def check_labels(label: Tensor, classes: int) -> None:
    """That every label names a class."""
    if torch.compiler.is_compiling():
        return
    wrong = ((label < 0) | (label >= classes)).nonzero()
    if len(wrong):
        sample = int(wrong[0])
        raise PocketNetError(f"labels must lie in 0..{classes - 1}; sample {sample} has {int(label[sample])}")


def check_teacher(embedding: Tensor, teacher: Tensor | None, kd_weight: float) -> bool:
    """Whether there is a distillation term to add."""
    if not 0.0 <= kd_weight < float("inf"):
        raise PocketNetError(f"kd_weight must be at least 0 and finite, got {kd_weight}")
    if kd_weight == 0.0:
        return False
    if teacher is None:
        raise PocketNetError(f"kd_weight is {kd_weight}, which needs a teacher")
    if teacher.shape != embedding.shape or not teacher.is_floating_point():
        raise PocketNetError(
            f"teacher must be floating point of shape {_shape(embedding)}, got {teacher.dtype} of "
            f"shape {_shape(teacher)}"
        )
    if teacher.device != embedding.device:
        raise PocketNetError(f"teacher must be on {embedding.device}, got {teacher.device}")
    _check_finite("teacher", teacher)
    return True


def _check_finite(name: str, rows: Tensor) -> None:
    if torch.compiler.is_compiling():
        return
    wrong = (~rows.detach().isfinite().all(1)).nonzero()
    if len(wrong):
        raise PocketNetError(f"{name} must be finite; row {int(wrong[0])} is not ({len(wrong)} in all)")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"
