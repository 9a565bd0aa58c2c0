"""What PocketNets and the network that is searched in are made of: operations, and the chain of cells.

Attribute names are those of the published checkpoints, so that their ``state_dict`` loads strictly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.models.genotypes import Node


class DepthwiseSeparable(nn.Module):
    """PReLU, depthwise k x k, pointwise, BatchNorm: N,C_in,H,W to N,C_out,ceil(H/stride),ceil(W/stride).

    ``affine`` is BatchNorm's: a search network's cells have no weight and bias there.
    """

    def __init__(
        self, channels_in: int, channels_out: int, kernel_size: int, stride: int, *, affine: bool = True
    ) -> None:
        super().__init__()
        depthwise = nn.Conv2d(
            channels_in,
            channels_in,
            kernel_size,
            stride,
            kernel_size // 2,
            groups=channels_in,
            bias=False,
        )
        pointwise = nn.Conv2d(channels_in, channels_out, 1, bias=False)
        norm = nn.BatchNorm2d(channels_out, affine=affine)
        self.net = nn.Sequential(nn.PReLU(channels_in), depthwise, pointwise, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the operation."""
        out: Tensor = self.net(x)
        return out


class FactorizedReduce(nn.Module):
    """Halve an even-sized map by two strided 1x1 branches, the second on the map shifted by a pixel.

    N,C_in,H,W to N,C_out,H/2,W/2; each branch gives half of the output channels.
    """

    def __init__(self, channels_in: int, channels_out: int, *, affine: bool = True) -> None:
        super().__init__()
        first = channels_out // 2
        self.relu = nn.PReLU(channels_in)
        self.conv11 = nn.Conv2d(channels_in, channels_in, 1, 2, groups=channels_in, bias=False)
        self.conv12 = nn.Conv2d(channels_in, first, 1, bias=False)
        self.conv21 = nn.Conv2d(channels_in, channels_in, 1, 2, groups=channels_in, bias=False)
        self.conv22 = nn.Conv2d(channels_in, channels_out - first, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels_out, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the operation."""
        x = self.relu(x)
        even = self.conv12(self.conv11(x))
        odd = self.conv22(self.conv21(x[:, :, 1:, 1:]))
        out: Tensor = self.bn(torch.cat([even, odd], 1))
        return out


class Pool(nn.Module):
    """3x3 pooling with padding 1, then BatchNorm; averages count only pixels inside the map."""

    def __init__(self, channels: int, kind: str, stride: int, *, affine: bool = True) -> None:
        super().__init__()
        self.pool: nn.Module
        if kind == "max":
            self.pool = nn.MaxPool2d(3, stride, 1)
        else:
            self.pool = nn.AvgPool2d(3, stride, 1, count_include_pad=False)
        self.bn = nn.BatchNorm2d(channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the operation."""
        out: Tensor = self.bn(self.pool(x))
        return out


class Identity(nn.Identity):
    """A skip connection of stride 1."""


def make_operation(name: str, channels: int, stride: int, *, affine: bool = True) -> nn.Module:
    """Build the operation of one edge: N,channels,H,W to N,channels,H/stride,W/stride.

    Args:
        name: One of ``genotypes.OPERATIONS``.
        channels: Width of the cell.
        stride: 1, or 2 for an edge from a reduction cell's inputs.
        affine: Whether its BatchNorm has weight and bias.
    """
    if name == "skip_connect":
        return Identity() if stride == 1 else FactorizedReduce(channels, channels, affine=affine)
    if name in ("max_pool_3x3", "avg_pool_3x3"):
        return Pool(channels, name.partition("_")[0], stride, affine=affine)
    kernel_size = int(name.rpartition("x")[2])
    return DepthwiseSeparable(channels, channels, kernel_size, stride, affine=affine)


@dataclass(frozen=True)
class CellPlace:
    """Where in a chain a cell stands.

    Attributes:
        before: Channels of the cell before the previous one.
        previous: Channels of the previous cell.
        channels: The cell's own width.
        reduction: Whether it halves the resolution.
        previous_reduction: Whether the previous cell does.
    """

    before: int
    previous: int
    channels: int
    reduction: bool
    previous_reduction: bool


def preprocessing(place: CellPlace, *, affine: bool = True) -> tuple[nn.Module, nn.Module]:
    """What brings a cell's two inputs to its width, and the first one to the resolution of the second.

    ``affine`` is that of their BatchNorms.
    """
    first: nn.Module
    if place.previous_reduction:
        first = FactorizedReduce(place.before, place.channels, affine=affine)
    else:
        first = DepthwiseSeparable(place.before, place.channels, 1, 1, affine=affine)
    return first, DepthwiseSeparable(place.previous, place.channels, 1, 1, affine=affine)


class Cell(nn.Module):
    """One cell: two preprocessed inputs, nodes that sum two edges each, concatenation of the node states.

    Attributes:
        reduction: Whether edges from the cell's inputs have stride 2.
        preproc0: Brings the output of the cell before the previous one to ``channels`` (and, after a
            reduction, to the previous cell's resolution).
        preproc1: Brings the previous cell's output to ``channels``.
        dag: Per node, the operations of its two edges.
        inputs: Per node, the states that its edges read; 0 and 1 are the preprocessed cell inputs.
        concat: The states that form the output.
        channels_out: ``len(concat) * channels``.
    """

    def __init__(self, nodes: tuple[Node, ...], concat: tuple[int, ...], place: CellPlace) -> None:
        super().__init__()
        self.reduction = place.reduction
        self.preproc0, self.preproc1 = preprocessing(place)
        strides = [2, 2] if place.reduction else [1, 1]
        strides += [1] * len(nodes)
        self.dag = nn.ModuleList(
            nn.ModuleList(
                make_operation(edge.operation, place.channels, strides[edge.input]) for edge in node
            )
            for node in nodes
        )
        self.inputs = [[edge.input for edge in node] for node in nodes]
        self.concat = list(concat)
        self.channels_out = len(concat) * place.channels

    def forward(self, before: Tensor, previous: Tensor) -> Tensor:
        """Compute the cell from the outputs of the two cells before it."""
        states = [self.preproc0(before), self.preproc1(previous)]
        for index, node in enumerate(self.dag):
            sources = self.inputs[index]
            first = node[0](states[sources[0]])  # type: ignore[index]
            second = node[1](states[sources[1]])  # type: ignore[index]
            states.append(first + second)
        return torch.cat([states[i] for i in self.concat], 1)


def chain_of_cells(
    layers: int, channels: int, width: int, make_cell: Callable[[CellPlace], nn.Module]
) -> tuple[nn.ModuleList, int]:
    """Build cells one behind the other; three of them halve the resolution and double the width.

    Args:
        layers: How many; the cells ``layers // 3``, ``2 * layers // 3`` and the last one reduce.
        channels: Width of the first ones.
        width: Channels of the stem, which the first two read.
        make_cell: Builds one, whose attribute ``channels_out`` says how many channels it gives.

    Returns:
        The cells, and the channels of the last one.

    Raises:
        PocketNetError: They are too few for three reductions.
    """
    if layers < 4:
        raise PocketNetError(f"layers is {layers}; expected at least 4, room for three reduction cells")
    reductions = (layers // 3, 2 * layers // 3, layers - 1)
    before = previous = width
    cells = nn.ModuleList()
    for index in range(layers):
        reduction = index in reductions
        channels = 2 * channels if reduction else channels
        cell = make_cell(CellPlace(before, previous, channels, reduction, index - 1 in reductions))
        cells.append(cell)
        before, previous = previous, int(cell.channels_out)  # type: ignore[arg-type]
    return cells, previous


def stem(width: int) -> nn.Sequential:
    """The convolution that halves the resolution before the first cell."""
    return nn.Sequential(nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width))


def tail(channels: int, middle: int, groups: int, embedding_dim: int) -> nn.Sequential:
    """What makes an embedding of the last cell's output.

    Args:
        channels: Channels of that output.
        middle: Channels between.
        groups: Groups of the 7x7 convolution, which leaves one pixel.
        embedding_dim: Length of the embedding.
    """
    return nn.Sequential(
        nn.PReLU(channels),
        nn.Conv2d(channels, middle, 1, bias=False),
        nn.BatchNorm2d(middle),
        nn.PReLU(middle),
        nn.Conv2d(middle, middle, 7, groups=groups, bias=False),
        nn.BatchNorm2d(middle),
        nn.Conv2d(middle, embedding_dim, 1, bias=False),
        nn.BatchNorm2d(embedding_dim),
    )
