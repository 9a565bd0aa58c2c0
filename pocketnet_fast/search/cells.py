"""The cells of the network that is searched in: every edge is a softmax-weighted sum of all operations.

Attribute names are those of the published checkpoints. Equations are those of DARTS (arXiv 1806.09055).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from pocketnet_fast.models.cells import CellPlace, chain_of_cells, make_operation, preprocessing, stem, tail

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

    def __init__(self, nodes: int, place: CellPlace) -> None:
        super().__init__()
        self.reduction = place.reduction
        self.preproc0, self.preproc1 = preprocessing(place, affine=False)
        self.dag = nn.ModuleList(
            nn.ModuleList(
                MixedOperation(place.channels, 2 if place.reduction and state < 2 else 1)
                for state in range(node + 2)
            )
            for node in range(nodes)
        )
        self.channels_out = nodes * place.channels

    def forward(self, before: Tensor, previous: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """Compute the cell from the two cells before it and, per node, the weights [edges, operations]."""
        states = [self.preproc0(before), self.preproc1(previous)]
        for node, edges in zip(self.dag, weights, strict=True):
            operations: Sequence[nn.Module] = node  # type: ignore[assignment]
            states.append(
                _sum([op(state, w) for op, state, w in zip(operations, states, edges, strict=True)])
            )
        return torch.cat(states[2:], 1)


class Supernet(nn.Module):
    """Everything that has weights: stem, cells, tail, classifier."""

    def __init__(self, channels: int, layers: int, classes: int, nodes: int, stem_multiplier: int) -> None:
        super().__init__()
        width = stem_multiplier * channels
        self.stem = stem(width)
        self.cells, last = chain_of_cells(layers, channels, width, partial(SearchCell, nodes))
        self.tail = tail(last, _TAIL_WIDTH, _TAIL_GROUPS, EMBEDDING_DIM)
        self.linear = nn.Linear(EMBEDDING_DIM, classes)
