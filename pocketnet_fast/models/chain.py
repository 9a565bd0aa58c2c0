"""Networks that are a chain of convolutions, some of whose results are added to what came before them."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from pocketnet_fast.models.base import EmbeddingModel


class Unit(NamedTuple):
    """A convolution and what becomes of its result, in this order.

    Attributes:
        name: Within the network.
        layer: The convolution; the last one of a network, of a single pixel, may be a matrix.
        norm: Its normalisation.
        activation: None if it has none.
        around: The input of the unit that lies so many units back, itself the first, is added; 0: none is.
    """

    name: str
    layer: nn.Conv2d | nn.Linear
    norm: nn.BatchNorm1d | nn.BatchNorm2d
    activation: nn.Module | None = None
    around: int = 0

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel is convolved by itself."""
        return isinstance(self.layer, nn.Conv2d) and self.layer.groups == self.layer.in_channels > 1


class ChainModel(EmbeddingModel):
    """A network of units, the last two a depthwise convolution of a whole state and a product."""

    def units(self) -> list[Unit]:
        """The units, first to last."""
        raise NotImplementedError


def unit_of(name: str, layers: nn.Module, around: int = 0) -> Unit:
    """The unit of a module whose children are a convolution, its normalisation and maybe an activation."""
    layer, norm, *rest = layers.children()
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
    return Unit(name, layer, norm, rest[0] if rest else None, around)
