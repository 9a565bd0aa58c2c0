"""A cell in training in plain PyTorch, any precision."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pocketnet_fast.ops.cell.structure import Kind, Operation


def cell_reference(
    inputs: Sequence[Tensor], parameters: Sequence[Tensor], operations: Sequence[Operation]
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Compute sums of operations on inputs and on sums before them (arXiv 2108.10710, Section III-A).

    Args:
        inputs: Floating point N,C,H,W.
        parameters: Those of the operations one after another. ``SEPARABLE``, with ``I`` channels of the
            states it reads together and ``O`` of its result: slope ``I``, depthwise ``I,1,k,k``, pointwise
            ``O,I,1,1``, gamma ``O``, beta ``O``. Pools and ``NORMALIZE``: gamma ``I``, beta ``I``.
            ``SCALED``: scale ``I``. ``RESIDUAL``: none.
        operations: In the order of their sums.

    Returns:
        The sums, N,C',H',W', where C' is as many channels as their operations reach; and mean and biased
        variance over N,H',W' of what each operation normalises, one operation after another.
    """
    states, means, variances = list(inputs), [], []
    remaining = iter(parameters)
    for total in range(operations[-1].sum + 1):
        results = []
        for operation in operations:
            if operation.sum != total:
                continue
            x, moments = _apply(operation, states, remaining)
            results.append((operation.first_out, x))
            if moments is not None:
                means.append(moments[0])
                variances.append(moments[1])
        channels = max(first + x.shape[1] for first, x in results)
        padded = [F.pad(x, (0, 0, 0, 0, first, channels - first - x.shape[1])) for first, x in results]
        states.append(torch.stack(padded).sum(0))
    none = inputs[0].new_empty(0)
    return states[len(inputs) :], torch.cat([none, *means]), torch.cat([none, *variances])


def _apply(
    operation: Operation, states: Sequence[Tensor], parameters: Iterator[Tensor]
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """The result, and the moments of what was normalised."""
    first, stride = operation.first_state, operation.stride
    x = torch.cat(list(states[first : first + operation.parts]), 1)
    if operation.kind is Kind.RESIDUAL:
        return x, None
    if operation.kind is Kind.SCALED:
        return x * next(parameters)[:, None, None], None
    if operation.kind is Kind.SEPARABLE:
        slope, depthwise, pointwise = next(parameters), next(parameters), next(parameters)
        x = F.prelu(x[:, :, operation.offset :, operation.offset :], slope)
        x = F.conv2d(x, depthwise, stride=stride, padding=operation.kernel // 2, groups=x.shape[1])
        x = F.conv2d(x, pointwise)
    elif operation.kind is Kind.MAX_POOL:
        x = F.max_pool2d(x, 3, stride, 1)
    elif operation.kind is Kind.AVG_POOL:
        x = F.avg_pool2d(x, 3, stride, 1, count_include_pad=False)
    gamma, beta = next(parameters), next(parameters)
    variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    normal = (x - mean[:, None, None]) * (variance[:, None, None] + operation.epsilon).rsqrt()
    return normal * gamma[:, None, None] + beta[:, None, None], (mean, variance)
