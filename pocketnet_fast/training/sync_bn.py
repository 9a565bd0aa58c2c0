"""Batch normalisation whose statistics are those of all processes' batches, on CUDA and on the CPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _Normalize(torch.autograd.Function):
    """``(x - mean) / sqrt(var + eps)`` over samples, rows and columns of all processes.

    With n elements per channel in all, the derivative is
    ``(dy - sum(dy) / n - y * sum(dy * y) / n) / sqrt(var + eps)``, both sums over all processes.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        axes = [0, *range(2, x.dim())]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        total = torch.cat([x.sum(axes), x.new_tensor([x.numel() // x.shape[1]])])
        dist.all_reduce(total)
        count = total[-1]
        mean = total[:-1] / count
        centred = x - mean.view(shape)
        # A second pass and exchange, because E[x^2] - E[x]^2 cancels.
        var = centred.square().sum(axes)
        dist.all_reduce(var)
        var = var / count
        inverse = (var + eps).rsqrt().view(shape)
        y = centred * inverse
        ctx.save_for_backward(y, inverse, count)
        ctx.mark_non_differentiable(mean, var, count)
        return y, mean, var, count

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Any) -> tuple[Tensor, None]:
        y, inverse, count = ctx.saved_tensors
        axes = [0, *range(2, y.dim())]
        shape = [1, -1, *[1] * (y.dim() - 2)]
        sums = torch.stack([dy.sum(axes), (dy * y).sum(axes)])
        dist.all_reduce(sums)
        first, second = (sums / count).view(2, *shape)
        return (dy - first - y * second) * inverse, None


class ProcessBatchNorm2d(nn.BatchNorm2d):
    """``BatchNorm2d`` over the default process group, for devices that ``nn.SyncBatchNorm`` does not run on."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise, as ``nn.BatchNorm2d`` does with the batches of all processes laid together."""
        if not self.training:
            return super().forward(input)
        y, mean, var, count = _Normalize.apply(input.float(), self.eps)
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            assert self.momentum is not None
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (count / (count - 1)), self.momentum)
        shape = [1, -1, *[1] * (input.dim() - 2)]
        out: Tensor = (y * self.weight.view(shape) + self.bias.view(shape)).to(input.dtype)
        return out


class ProcessBatchNorm1d(ProcessBatchNorm2d):
    """The same for N,C inputs."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() != 2:
            raise ValueError(f"expected N,C, got a tensor of {input.dim()} dimensions")


def synchronize_statistics(model: nn.Module, device: torch.device) -> nn.Module:
    """Make a model's batch normalisations share their statistics; parameters and key names stay."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = ProcessBatchNorm2d
        elif type(module) is nn.BatchNorm1d:
            module.__class__ = ProcessBatchNorm1d
    return model
