"""The margin softmax with its classes divided among the processes of a group, sampled if wanted."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.losses.heads import CombinedMargin
from pocketnet_fast.losses.margin_cross_entropy import (
    Implementation,
    Precision,
    check_inputs,
    check_labels,
    check_teacher,
    distillation_loss,
    margin_terms,
)
from pocketnet_fast.losses.partial_fc import sample_classes
from pocketnet_fast.ops.margin_cross_entropy.reference import cross_entropy

Group = Any  # dist.ProcessGroup, which builds of torch without distributed lack


def shard_range(classes: int, rank: int, ranks: int) -> tuple[int, int]:
    """First class of a rank's slice and the class after its last; sizes differ by one at most.

    Examples:
        >>> shard_range(10, rank=0, ranks=4)
        (0, 2)
    """
    return classes * rank // ranks, classes * (rank + 1) // ranks


class _GatherRows(torch.autograd.Function):
    """All ranks' rows in the order of the ranks; every rank contributes to the gradient of every row."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: list[int], group: Group) -> Tensor:
        ctx.sizes, ctx.group = sizes, group
        return _gather(rows, sizes, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient, group=ctx.group)
        return gradient.split(ctx.sizes)[dist.get_rank(ctx.group)], None, None


class _LogSumExp(torch.autograd.Function):
    """``log sum exp`` over the ranks; as all compute the same loss from it, gradients are not summed."""

    @staticmethod
    def forward(ctx: Any, local: Tensor, group: Group) -> Tensor:
        largest = local.clone()
        dist.all_reduce(largest, dist.ReduceOp.MAX, group)
        shift = largest.masked_fill(largest == -torch.inf, 0.0)
        total = (local - shift).exp()
        dist.all_reduce(total, group=group)
        result = shift + total.log()
        ctx.save_for_backward(local, result)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        local, result = ctx.saved_tensors
        return gradient * torch.where(local == -torch.inf, 0.0, (local - result).exp()), None


class _Sum(torch.autograd.Function):
    """Sum over the ranks; as all compute the same loss from it, gradients are not summed."""

    @staticmethod
    def forward(ctx: Any, local: Tensor, group: Group) -> Tensor:
        total = local.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


def _gather(rows: Tensor, sizes: list[int], group: Group) -> Tensor:
    longest = max(sizes)
    padded = rows.new_zeros((longest, *rows.shape[1:]))
    padded[: rows.shape[0]] = rows
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded, group=group)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


class ShardedMargin(CombinedMargin):
    """``CombinedMargin`` whose classes are divided among processes, optionally sampled (Partial FC).

    Every rank passes its own part of the batch and gets the loss of the whole batch, the same on each. The
    gradient of ``kernel`` is that of this rank's slice of the undivided kernel. Embeddings, labels and two
    values per sample travel; logits never do. Without a process group, one process holds all classes.

    Args:
        embedding_dim: D.
        classes: Number of identities of all ranks together, at least one per rank.
        scale: Factor of the cosines.
        margins: ``(m1, m2, m3)`` of ``cos(m1 * theta + m2) - m3``.
        easy_margin: Apply margins only where the label's cosine is positive.
        sample_rate: Part of each rank's classes that a training step's softmax takes (Partial FC, arXiv
            2010.05222); those of the batch are always among them. In eval mode all classes take part. What
            is saved is the softmax: the gradient of ``kernel`` is dense, zero for classes left out, and an
            optimiser's momentum and weight decay act on all of them.
        seed: The seed of the choice of negatives; each rank adds its own number.
        average_gradients: Multiply the embedding's gradient by the number of ranks, for a backbone under
            DistributedDataParallel, which divides by it. Otherwise it is the gradient of the loss.
        group: Process group; the default one without it.
        implementation: As in ``margin_cross_entropy``.
        precision: As there.

    Raises:
        PocketNetError: Bad margins, scale or rate, or fewer classes than ranks.

    Examples:
        >>> head = ShardedMargin(128, 85742, sample_rate=0.1)  # in each process of a group
        >>> loss = head(embedding, label)
    """

    def __init__(
        self,
        embedding_dim: int,
        classes: int,
        *,
        scale: float = 64.0,
        margins: tuple[float, float, float] = (1.0, 0.5, 0.0),
        easy_margin: bool = False,
        sample_rate: float = 1.0,
        seed: int = 0,
        average_gradients: bool = False,
        group: Group = None,
        implementation: Implementation = "auto",
        precision: Precision = "fp32",
    ) -> None:
        distributed = dist.is_available() and dist.is_initialized()
        rank = dist.get_rank(group) if distributed else 0
        ranks = dist.get_world_size(group) if distributed else 1
        if classes < ranks:
            raise PocketNetError(f"{classes} classes cannot be divided among {ranks} ranks")
        if not 0.0 < sample_rate <= 1.0:
            raise PocketNetError(f"the sampling rate must lie in (0, 1], got {sample_rate}")
        first, end = shard_range(classes, rank, ranks)
        super().__init__(
            embedding_dim,
            end - first,
            scale=scale,
            margins=margins,
            easy_margin=easy_margin,
            implementation=implementation,
            precision=precision,
        )
        self.group = group
        self.rank, self.ranks = rank, ranks
        self.classes = classes
        self.first = first
        self.sample_rate = sample_rate
        self.average_gradients = average_gradients
        self.generator = torch.Generator().manual_seed(seed + rank)

    def forward(
        self, embedding: Tensor, label: Tensor, teacher: Tensor | None = None, kd_weight: float = 0.0
    ) -> Tensor:
        """The mean loss over all ranks' samples; arguments and errors as ``margin_cross_entropy``.

        An error of one rank's input is raised there before anything is sent, while the others wait.
        """
        check_inputs(embedding, self.kernel, label)
        check_labels(label, self.classes)
        distil = check_teacher(embedding, teacher, kd_weight)
        if self.average_gradients:
            embedding = _ScaleGradient.apply(embedding, float(self.ranks))
        sizes = self._sizes(embedding)
        samples = max(sum(sizes), 1)
        rows, labels = embedding, label
        if self.ranks > 1:
            rows = _GatherRows.apply(embedding, sizes, self.group)
            labels = _gather(label, sizes, self.group)

        kernel: Tensor = self.kernel
        held = (labels >= self.first) & (labels < self.first + kernel.shape[1])
        local = torch.where(held, labels - self.first, -1)
        if self.training and self.sample_rate < 1.0:
            chosen, local = sample_classes(local, kernel.shape[1], self.sample_rate, generator=self.generator)
            kernel = kernel.index_select(1, chosen)
        others, cosine = margin_terms(
            rows, kernel, local, self.options.scale, self.implementation, self.precision
        )
        if self.ranks > 1:
            others = _LogSumExp.apply(others, self.group)
            cosine = _Sum.apply(cosine, self.group)
        loss = cross_entropy(others, cosine, self.options).sum() / samples
        loss = loss.to(torch.promote_types(torch.promote_types(rows.dtype, kernel.dtype), torch.float32))
        if distil:
            assert teacher is not None
            term = distillation_loss(embedding, teacher) * (embedding.shape[0] / samples)
            loss = loss + kd_weight * (_Sum.apply(term, self.group) if self.ranks > 1 else term)
        return loss

    def _sizes(self, embedding: Tensor) -> list[int]:
        if self.ranks == 1:
            return [embedding.shape[0]]
        here = torch.tensor([embedding.shape[0]], device=embedding.device)
        sizes = [torch.empty_like(here) for _ in range(self.ranks)]
        dist.all_gather(sizes, here, group=self.group)
        return [int(size) for size in sizes]

    def extra_repr(self) -> str:
        """Sizes and options, for ``print``."""
        return (
            f"{self.kernel.shape[0]}, {self.classes}, {self.options}, sample_rate={self.sample_rate}, "
            f"rank {self.rank} of {self.ranks}"
        )
