"""A search network in training, its cells on the fused operator ``cell``.

A cell is one call. An operation's normalisation has no weight and bias of its own, so the operation's softmax
weight takes the place of the first, and the gradient of the alphas comes with those of the weights. An edge's
operations read their state once per image, and of what lies between states nothing is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from pocketnet_fast.models.fused_training import (
    RunningStatistics,
    begin_cell,
    fused_projection,
    fused_stem,
    parts_obstacle,
)
from pocketnet_fast.search.cells import SearchCell, Supernet


class CellSearch(Protocol):
    """A search network, as ``SearchNetwork`` is."""

    net: Supernet
    nodes: int
    training: bool

    def operation_weights(self, *, reduction: bool) -> list[Tensor]:
        """Per node, the weights [edges, operations] of a cell."""
        ...


def obstacle(network: CellSearch, x: Tensor) -> str | None:
    """Why the network cannot train fused on input ``x``; None if it can."""
    net = network.net
    return parts_obstacle(network, (net.stem, net.cells, net.tail[:3]), x)


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


def fused_forward(network: CellSearch, x: Tensor) -> Tensor:
    """The logits of a batch; call it where ``obstacle`` is None.

    Up to the tail's 7x7 convolution every map but the stem's convolution is of ``state_dtype``; on CUDA
    autocast's type is that of the operands of matrix products. The running statistics are updated.

    Raises:
        ValueError: A normalisation has one value per channel only, as torch's own does.
    """
    net = network.net
    statistics = RunningStatistics()
    before = previous = fused_stem(net.stem, x, statistics)
    weights = [network.operation_weights(reduction=reduction) for reduction in (False, True)]
    factors: dict[tuple[bool, int], list[list[tuple[Tensor, ...]]]] = {}
    for module in net.cells:
        assert isinstance(module.reduction, bool)
        key = (module.reduction, module.channels_out // network.nodes)
        if key not in factors:
            factors[key] = _factors(weights[module.reduction], key[1])
        before, previous = previous, _cell(module, before, previous, factors[key], statistics)
    tail = list(net.tail)
    middle = fused_projection(tail[:3], previous, statistics)
    statistics.write()
    for module in tail[3:]:
        middle = module(middle)
    logits: Tensor = net.linear(middle.flatten(1))
    return logits
