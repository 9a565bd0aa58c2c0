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


class _ProcessStatistics:
    """The forward of ``nn.BatchNorm*d`` for the batches of all processes of the default group together."""

    def forward(self: Any, input: Tensor) -> Tensor:
        """Normalise N,C or N,C,height,width."""
        if not self.training:
            out: Tensor = nn.functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
            return out
        self._check_input_dim(input)
        y, mean, var, count = _Normalize.apply(input.float(), self.eps)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (count / (count - 1)), self.momentum)
        shape = [1, -1, *[1] * (input.dim() - 2)]
        scaled: Tensor = y * self.weight.view(shape) + self.bias.view(shape)
        return scaled.to(input.dtype)


class ProcessBatchNorm1d(_ProcessStatistics, nn.BatchNorm1d):
    """``BatchNorm1d`` over all processes, for devices that ``nn.SyncBatchNorm`` does not run on."""


class ProcessBatchNorm2d(_ProcessStatistics, nn.BatchNorm2d):
    """``BatchNorm2d`` over all processes, for devices that ``nn.SyncBatchNorm`` does not run on."""


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
