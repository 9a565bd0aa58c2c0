"""PocketNet (Boutros et al., IEEE Access 2022, arXiv 2108.10710) as plain PyTorch, for any genotype.

Attribute names are those of the published checkpoints, so that their ``state_dict`` loads strictly.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.models.base import EmbeddingModel
from pocketnet_fast.models.fused_training import fused_forward, obstacle, runs_fused
from pocketnet_fast.models.genotypes import Genotype, Node


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

    def __init__(
        self,
        nodes: tuple[Node, ...],
        concat: tuple[int, ...],
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
            self.preproc0 = FactorizedReduce(channels_before, channels)
        else:
            self.preproc0 = DepthwiseSeparable(channels_before, channels, 1, 1)
        self.preproc1 = DepthwiseSeparable(channels_previous, channels, 1, 1)
        strides = [2, 2] if reduction else [1, 1]
        strides += [1] * len(nodes)
        self.dag = nn.ModuleList(
            nn.ModuleList(make_operation(edge.operation, channels, strides[edge.input]) for edge in node)
            for node in nodes
        )
        self.inputs = [[edge.input for edge in node] for node in nodes]
        self.concat = list(concat)
        self.channels_out = len(concat) * channels

    def forward(self, before: Tensor, previous: Tensor) -> Tensor:
        """Compute the cell from the outputs of the two cells before it."""
        states = [self.preproc0(before), self.preproc1(previous)]
        for index, node in enumerate(self.dag):
            sources = self.inputs[index]
            first = node[0](states[sources[0]])  # type: ignore[index]
            second = node[1](states[sources[1]])  # type: ignore[index]
            states.append(first + second)
        return torch.cat([states[i] for i in self.concat], 1)


class PocketNet(EmbeddingModel):
    """PocketNet of a given genotype, width and depth (paper, Section III-B and Table 2).

    Input float N,3,112,112, ``(x / 255 - 0.5) / 0.5`` of RGB pixels; output N,``embedding_dim``. Any N,
    including 0.

    Args:
        genotype: The two cells.
        channels: Width C of the first cells; it doubles at each of the three reduction cells. The stem has
            4 C channels.
        layers: Number of cells L; the cells L//3, 2L//3 and L-1 reduce.
        embedding_dim: Length of the embedding. The tail's middle has 512 channels, and 1024 for embeddings
            longer than 256.
        fused: Whether training runs the cells on the fused kernels: ``"auto"`` where they can, which is in
            training mode with float32 parameters and inputs on one device, the CPU or CUDA; True to make it
            an error where they cannot; False for plain PyTorch, which alone can be differentiated twice. An
            attribute, too.

    Raises:
        PocketNetError: If a size is not positive, or if fewer than four cells leave no room for three
            reductions.
    """

    def __init__(
        self,
        genotype: Genotype,
        channels: int,
        layers: int,
        embedding_dim: int = 128,
        *,
        fused: bool | str = "auto",
    ) -> None:
        super().__init__(embedding_dim)
        if channels < 1:
            raise PocketNetError(f"channels is {channels}; expected a positive number")
        if layers < 4:
            raise PocketNetError(f"layers is {layers}; expected at least 4, room for three reduction cells")
        self.fused = fused
        self.genotype = genotype
        self.channels = channels
        self.layers = layers

        width = 4 * channels
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width))
        reductions = (layers // 3, 2 * layers // 3, layers - 1)
        before = previous = width
        cells = []
        for index in range(layers):
            reduction = index in reductions
            channels = 2 * channels if reduction else channels
            cell = Cell(
                genotype.reduce if reduction else genotype.normal,
                genotype.reduce_concat if reduction else genotype.normal_concat,
                before,
                previous,
                channels,
                reduction=reduction,
                previous_reduction=index - 1 in reductions,
            )
            cells.append(cell)
            before, previous = previous, cell.channels_out
        self.cells = nn.ModuleList(cells)

        middle = 512 if embedding_dim <= 256 else 1024
        self.tail = nn.Sequential(
            nn.PReLU(previous),
            nn.Conv2d(previous, middle, 1, bias=False),
            nn.BatchNorm2d(middle),
            nn.PReLU(middle),
            nn.Conv2d(middle, middle, 7, groups=middle, bias=False),
            nn.BatchNorm2d(middle),
            nn.Conv2d(middle, embedding_dim, 1, bias=False),
            nn.BatchNorm2d(embedding_dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Compute the embeddings of a batch.

        Raises:
            PocketNetError: In training mode, if ``fused`` is True and the kernels cannot run (says why), or
                if it is none of its values.
        """
        # Not one condition: torch.jit compiles both sides of an `and`.
        if not torch.jit.is_scripting():  # noqa: SIM102
            if self._runs_fused(x):
                return fused_forward(self, x)
        before = previous = self.stem(x)
        for cell in self.cells:
            before, previous = previous, cell(before, previous)
        return torch.flatten(self.tail(previous), 1)

    @torch.jit.unused
    def forward_maps(self, x: Tensor, names: Collection[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the embeddings and keep feature maps (see ``EmbeddingModel``)."""
        maps: dict[str, Sequence[Tensor]] = {}
        if self._runs_fused(x):
            embedding = fused_forward(self, x, maps)
        else:
            before = previous = self.stem(x)
            maps[str(previous.shape[2])] = [previous]
            for cell in self.cells:
                before, previous = previous, cell(before, previous)
                maps[str(previous.shape[2])] = [previous]
            middle = self.tail[:4](previous)
            maps["tail"] = [middle]
            embedding = torch.flatten(self.tail[4:](middle), 1)
        self._check_maps(maps, names)
        return embedding, {name: torch.cat([*maps[name]], 1) for name in names}

    @torch.jit.unused
    def tail_layers(self) -> tuple[nn.Module, nn.Module, nn.Module, nn.Module]:
        """The layers after the map "tail"."""
        return self.tail[4], self.tail[5], self.tail[6], self.tail[7]

    @torch.jit.unused
    def _runs_fused(self, x: Tensor) -> bool:
        return runs_fused(self, x, obstacle)
