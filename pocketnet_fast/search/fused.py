"""A search network in training, its cells on the fused operator ``cell``.

A cell is one call. An operation's normalisation has no weight and bias of its own, so the operation's softmax
weight takes the place of the first, and the gradient of the alphas comes with those of the weights. An edge's
operations read their state once per image, and of what lies between states nothing is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pocketnet_fast.models import fused_training
from pocketnet_fast.models.fused_training import CellCall, RunningStatistics, begin_cell, state_dtype

if TYPE_CHECKING:
    from pocketnet_fast.search.network import SearchCell, SearchNetwork


def obstacle(network: SearchNetwork, x: Tensor) -> str | None:
    """Why the network cannot train fused on input ``x``; None if it can."""
    net = network.net
    return fused_training.parts_obstacle(network, (net.stem, net.cells, net.tail[:3]), x)


def _factors(weights: Sequence[Tensor], channels: int) -> list[list[tuple[Tensor, ...]]]:
    """Per node, edge and operation the softmax weight, once for each channel."""
    return [
        [edge[:, None].expand(-1, channels).contiguous().unbind(0) for edge in node.float().unbind(0)]
        for node in weights
    ]


def _cell(
    module: SearchCell,
    before: Sequence[Tensor],
    previous: Sequence[Tensor],
    factors: list[list[tuple[Tensor, ...]]],
    statistics: RunningStatistics,
) -> list[Tensor]:
    call, states = begin_cell(module.preproc0, module.preproc1, before, previous)
    for node, edges in zip(module.dag, factors, strict=True):
        assert isinstance(node, nn.ModuleList)
        sources = list(states)
        states.append(call.next_sum())
        for mixed, source, weights in zip(node, sources, edges, strict=True):
            operations = mixed._ops
            assert isinstance(operations, nn.ModuleList)
            # The last weight is that of no operation.
            for operation, factor in zip(operations, weights, strict=False):
                call.edge(operation, source, factor=factor)
    sums = call.compute(statistics)
    return sums[2:]


def fused_forward(network: SearchNetwork, x: Tensor) -> Tensor:
    """The logits of a batch; call it where ``obstacle`` is None.

    Up to the tail's 7x7 convolution every map but the stem's convolution is of ``state_dtype``; on CUDA
    autocast's type is that of the operands of matrix products. The running statistics are updated.

    Raises:
        ValueError: If a normalisation has one value per channel only, as torch's own does.
    """
    net = network.net
    statistics = RunningStatistics()
    convolved = net.stem[0](x.contiguous(memory_format=torch.channels_last))
    stem = CellCall([convolved.to(state_dtype(x.device))])
    stem.next_sum()
    stem.normalize(net.stem[1])  # type: ignore[arg-type]
    before = previous = stem.compute(statistics)
    weights = [network.operation_weights(reduction=reduction) for reduction in (False, True)]
    factors: dict[tuple[bool, int], list[list[tuple[Tensor, ...]]]] = {}
    for module in net.cells:
        assert isinstance(module.reduction, bool)
        key = (module.reduction, module.channels_out // network.nodes)
        if key not in factors:
            factors[key] = _factors(weights[module.reduction], key[1])
        before, previous = previous, _cell(module, before, previous, factors[key], statistics)
    activation, pointwise, norm, *rest = net.tail
    tail = CellCall(previous)
    tail.next_sum()
    tail.projection(activation, pointwise, norm, len(previous))  # type: ignore[arg-type]
    (middle,) = tail.compute(statistics)
    statistics.write()
    for module in rest:
        middle = module(middle)
    logits: Tensor = net.linear(middle.flatten(1))
    return logits
