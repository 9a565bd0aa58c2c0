"""The network that is searched in: every edge is a softmax-weighted sum of all operations.

Attribute names are those of the published checkpoints, so that their ``state_dict`` loads strictly. Equations
are those of DARTS (arXiv 1806.09055); operations, stem and tail those of PocketNet (arXiv 2108.10710,
Sections III-A and III-B).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.models.base import InputSpec
from pocketnet_fast.models.fused_training import runs_fused
from pocketnet_fast.models.pocketnet import DepthwiseSeparable, FactorizedReduce, make_operation
from pocketnet_fast.search.fused import fused_forward, obstacle

SEARCH_OPERATIONS = (
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "dw_conv_3x3",
    "dw_conv_5x5",
    "dw_conv_7x7",
    "dw_conv_1x1",
    "none",
)
"""The columns of an alpha, in order; ``none`` gives zeros and is never part of a genotype."""

EMBEDDING_DIM = 128
"""Length of what the linear classifier reads."""

_TAIL_WIDTH = 512
_TAIL_GROUPS = 128
# Equal but for a little noise, so that no operation has an advantage at the start (DARTS, Section 2.2).
_ALPHA_DEVIATION = 1e-3


class MixedOperation(nn.Module):
    """All operations of one edge, summed with weights (DARTS, eq. 2): N,C,H,W to N,C,H/stride,W/stride."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self._ops = nn.ModuleList(
            make_operation(name, channels, stride, affine=False) for name in SEARCH_OPERATIONS[:-1]
        )

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """Apply the edge; ``weights`` has one entry per operation, and ``none`` adds nothing."""
        terms = [weights[k] * operation(x) for k, operation in enumerate(self._ops)]
        return _sum(terms)


def _sum(terms: Sequence[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


class SearchCell(nn.Module):
    """A cell in which each node is the sum of mixed operations of all states before it.

    Attributes:
        reduction: Whether edges from the cell's inputs have stride 2.
        preproc0: Brings the output of the cell before the previous one to the cell's width and resolution.
        preproc1: Brings the previous cell's output to the cell's width.
        dag: Per node, one mixed operation per state before it.
        channels_out: Nodes times the cell's width; the output is the concatenation of the nodes.
    """

    def __init__(
        self,
        nodes: int,
        channels_before: int,
        channels_previous: int,
        channels: int,
        *,
        reduction: bool,
        previous_reduction: bool,
    ) -> None:
        super().__init__()
        self.reduction = reduction
        self.preproc0: nn.Module
        if previous_reduction:
            self.preproc0 = FactorizedReduce(channels_before, channels, affine=False)
        else:
            self.preproc0 = DepthwiseSeparable(channels_before, channels, 1, 1, affine=False)
        self.preproc1 = DepthwiseSeparable(channels_previous, channels, 1, 1, affine=False)
        self.dag = nn.ModuleList(
            nn.ModuleList(
                MixedOperation(channels, 2 if reduction and state < 2 else 1) for state in range(node + 2)
            )
            for node in range(nodes)
        )
        self.channels_out = nodes * channels

    def forward(self, before: Tensor, previous: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """Compute the cell from the two cells before it and, per node, the weights [edges, operations]."""
        states = [self.preproc0(before), self.preproc1(previous)]
        for node, edges in zip(self.dag, weights, strict=True):
            operations: Sequence[nn.Module] = node  # type: ignore[assignment]
            states.append(
                _sum([op(state, w) for op, state, w in zip(operations, states, edges, strict=True)])
            )
        return torch.cat(states[2:], 1)


class _Supernet(nn.Module):
    """Everything that has weights: stem, cells, tail, classifier."""

    def __init__(self, channels: int, layers: int, classes: int, nodes: int, stem_multiplier: int) -> None:
        super().__init__()
        width = stem_multiplier * channels
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width))
        reductions = (layers // 3, 2 * layers // 3, layers - 1)
        before = previous = width
        cells = []
        for index in range(layers):
            reduction = index in reductions
            channels = 2 * channels if reduction else channels
            cell = SearchCell(
                nodes,
                before,
                previous,
                channels,
                reduction=reduction,
                previous_reduction=index - 1 in reductions,
            )
            cells.append(cell)
            before, previous = previous, cell.channels_out
        self.cells = nn.ModuleList(cells)
        self.tail = nn.Sequential(
            nn.PReLU(previous),
            nn.Conv2d(previous, _TAIL_WIDTH, 1, bias=False),
            nn.BatchNorm2d(_TAIL_WIDTH),
            nn.PReLU(_TAIL_WIDTH),
            nn.Conv2d(_TAIL_WIDTH, _TAIL_WIDTH, 7, groups=_TAIL_GROUPS, bias=False),
            nn.BatchNorm2d(_TAIL_WIDTH),
            nn.Conv2d(_TAIL_WIDTH, EMBEDDING_DIM, 1, bias=False),
            nn.BatchNorm2d(EMBEDDING_DIM),
        )
        self.linear = nn.Linear(EMBEDDING_DIM, classes)


class SearchNetwork(nn.Module):
    """PocketNet's search network: weights, and the alphas that say how much each operation counts.

    Input float N,3,112,112, ``(x / 255 - 0.5) / 0.5`` of RGB pixels; output N,``classes`` logits.

    Args:
        channels: Width C of the first cells; it doubles at each of the three reduction cells.
        layers: Number of cells L; the cells L//3, 2L//3 and L-1 reduce.
        classes: Length of the logits.
        nodes: Nodes of a cell.
        stem_multiplier: The stem has this many times C channels.

    Attributes:
        alpha_normal: Per node, the alphas [edges, operations] of the normal cells; edge e reads state e, and
            the operations are ``SEARCH_OPERATIONS``. They start equal but for noise of deviation 1e-3.
        alpha_reduce: Of the reduction cells.
        fused: Whether training runs the cells on the fused kernels: ``"auto"`` where they can, True to make
            it an error where they cannot, False for plain PyTorch, which alone can be differentiated twice.
        input_spec: Size and normalisation of the input.

    Raises:
        PocketNetError: If a size is not positive, or if fewer than four cells leave no room for three
            reductions.
    """

    def __init__(
        self,
        channels: int,
        layers: int,
        classes: int,
        *,
        nodes: int = 4,
        stem_multiplier: int = 3,
    ) -> None:
        super().__init__()
        sizes = {
            "channels": channels,
            "classes": classes,
            "nodes": nodes,
            "stem_multiplier": stem_multiplier,
        }
        for name, size in sizes.items():
            if size < 1:
                raise PocketNetError(f"{name} is {size}; expected a positive number")
        if layers < 4:
            raise PocketNetError(f"layers is {layers}; expected at least 4, room for three reduction cells")
        self.channels, self.layers, self.classes, self.nodes = channels, layers, classes, nodes
        self.fused: bool | str = "auto"
        self.input_spec = InputSpec()
        self.alpha_normal = _alphas(nodes)
        self.alpha_reduce = _alphas(nodes)
        self.net = _Supernet(channels, layers, classes, nodes, stem_multiplier)

    def alphas(self) -> dict[str, nn.Parameter]:
        """The architecture's parameters by name, such as ``alpha_normal.0``."""
        return {name: p for name, p in self.named_parameters() if not name.startswith("net.")}

    def weights(self) -> dict[str, nn.Parameter]:
        """All other parameters by name."""
        return {name: p for name, p in self.named_parameters() if name.startswith("net.")}

    def operation_weights(self, *, reduction: bool) -> list[Tensor]:
        """Per node, the weights [edges, operations] of a cell: each edge's softmax over its alphas."""
        alphas = self.alpha_reduce if reduction else self.alpha_normal
        return [alpha.softmax(-1) for alpha in alphas]

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits of a batch.

        Raises:
            PocketNetError: In training mode, if ``fused`` is True and the kernels cannot run (says why), or
                if it is none of its values.
        """
        if runs_fused(self, x, obstacle):
            return fused_forward(self, x)
        return self.plain_forward(x)

    def plain_forward(self, x: Tensor) -> Tensor:
        """Compute the logits operation by operation, whatever ``fused`` says."""
        net = self.net
        normal = self.operation_weights(reduction=False)
        reduce = self.operation_weights(reduction=True)
        before = previous = net.stem(x)
        for module in net.cells:
            weights = reduce if module.reduction else normal
            before, previous = previous, module(before, previous, weights)
        logits: Tensor = net.linear(torch.flatten(net.tail(previous), 1))
        return logits


def _alphas(nodes: int) -> nn.ParameterList:
    return nn.ParameterList(
        nn.Parameter(_ALPHA_DEVIATION * torch.randn(node + 2, len(SEARCH_OPERATIONS)))
        for node in range(nodes)
    )
