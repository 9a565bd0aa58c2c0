"""PocketNet (Boutros et al., IEEE Access 2022, arXiv 2108.10710) as plain PyTorch, for any genotype.

Attribute names are those of the published checkpoints, so that their ``state_dict`` loads strictly.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.models.base import EmbeddingModel
from pocketnet_fast.models.cells import Cell, CellPlace, chain_of_cells, stem, tail
from pocketnet_fast.models.fused_training import fused_forward, obstacle, runs_fused
from pocketnet_fast.models.genotypes import Genotype


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
        PocketNetError: A size is not positive, or fewer than four cells leave no room for three
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
        self.fused = fused
        self.genotype = genotype
        self.channels = channels
        self.layers = layers

        def make_cell(place: CellPlace) -> Cell:
            if place.reduction:
                return Cell(genotype.reduce, genotype.reduce_concat, place)
            return Cell(genotype.normal, genotype.normal_concat, place)

        width = 4 * channels
        self.stem = stem(width)
        self.cells, last = chain_of_cells(layers, channels, width, make_cell)
        middle = 512 if embedding_dim <= 256 else 1024
        self.tail = tail(last, middle, middle, embedding_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the embeddings of a batch.

        Raises:
            PocketNetError: In training mode, if ``fused`` is True and the kernels cannot run (says why), or
                it is none of its values.
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
