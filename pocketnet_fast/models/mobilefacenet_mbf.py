"""MobileFaceNet as InsightFace trains it ("mbf"): wider, with PReLU, a grouped convolution, a last matrix.

The keys are those of the checkpoints of InsightFace's arcface_torch.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

from torch import Tensor, nn

from pocketnet_fast.models.base import InputSpec
from pocketnet_fast.models.chain import ChainModel, Unit, unit_of

_PROJECTION: Final = re.compile(
    r"layers\.([0-9]{1,9})(?:\.layers\.([0-9]{1,9}))?\.layers\.2\.layers\.0\.weight"
)


class BlockSize(NamedTuple):
    """A 1x1 to ``hidden`` channels, a depthwise 3x3 of a stride, a 1x1 to ``channels``.

    What has stride 1 is added to its input.
    """

    hidden: int
    channels: int
    stride: int


class MbfSizes(NamedTuple):
    """How wide and how deep a network is.

    Attributes:
        stem: Channels of the first convolution.
        groups: The groups of the 3x3 convolution after it; 0: there is none.
        blocks: In their order.
        features: Channels of the global depthwise convolution.
    """

    stem: int
    groups: int
    blocks: tuple[BlockSize, ...]
    features: int


def mbf_sizes(blocks: tuple[int, int, int, int] = (1, 4, 6, 2), scale: int = 2) -> MbfSizes:
    """The sizes that arcface_torch has: those of "mbf", and (2, 8, 12, 4) and 4 for "mbf_large".

    Args:
        blocks: Residual blocks at 56, 28, 14 and 7 pixels of height; a single one at 56 is the convolution in
            groups instead.
        scale: Width, in multiples of 64 channels at 56 and 28 pixels of height.
    """
    narrow, wide = 64 * scale, 128 * scale
    grouped = blocks[0] == 1
    stages = ((128, narrow), (128, narrow), (256, wide), (512, wide))
    inner = (128, 128, 256, 256)
    sizes: list[BlockSize] = []
    for number, ((hidden, channels), residual, count) in enumerate(zip(stages, inner, blocks, strict=True)):
        if number > 0:
            sizes.append(BlockSize(hidden, channels, 2))
        if number > 0 or not grouped:
            sizes += [BlockSize(residual, channels, 1)] * count
    return MbfSizes(narrow, 64 if grouped else 0, tuple(sizes), 512)


def sizes_of_checkpoint(shapes: Mapping[str, tuple[int, ...]]) -> MbfSizes | None:
    """The sizes of the network whose parameters have these shapes; None if it is no such network."""
    filters = {name: shape for name, shape in shapes.items() if len(shape) == 4 and all(shape)}
    stem, features = (filters.get(f"{name}.layers.0.weight") for name in ("layers.0", "conv_sep"))
    if stem is None or features is None:
        return None
    blocks: dict[tuple[int, int], BlockSize] = {}
    for name, (channels, hidden, _, _) in filters.items():
        key = _PROJECTION.fullmatch(name)
        if key is not None:
            blocks[int(key[1]), int(key[2] or 0)] = BlockSize(hidden, channels, 1 if key[2] else 2)
    in_order = tuple(blocks[place] for place in sorted(blocks))
    grouped = filters.get("layers.1.layers.0.weight")
    groups = 0 if grouped is None else stem[0] // grouped[1]
    if grouped is not None and groups * grouped[1] != stem[0]:
        return None
    return MbfSizes(stem[0], groups, in_order, features[0])


def sizes_of_chain(convolutions: Sequence[tuple[int, ...]]) -> MbfSizes | None:
    """The sizes of the network whose convolutions these are; None if no such network has them.

    Args:
        convolutions: Of each but the matrix: output channels, input channels of a group, window, stride,
            groups, in their order.
    """
    if len(convolutions) < 3 or not all(all(sizes[:3]) for sizes in convolutions):
        return None
    stem, *inner = convolutions[:-2]
    groups = inner.pop(0)[4] if inner and inner[0][2] == 3 else 0
    if groups < 0 or (groups > 0 and stem[0] % groups):
        return None
    blocks = [
        BlockSize(expansion[0], projection[0], filtering[3])
        for expansion, filtering, projection in zip(inner[::3], inner[1::3], inner[2::3], strict=False)
    ]
    return MbfSizes(stem[0], groups, tuple(blocks), convolutions[-1][0])


_MBF = mbf_sizes()


class _Layers(nn.Module):
    """Layers in a row, under the key that the checkpoints have them."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers."""
        out: Tensor = self.layers(x)
        return out


def _conv_bn(
    channels_in: int, channels: int, kernel: int, stride: int, padding: int, groups: int
) -> list[nn.Module]:
    conv = nn.Conv2d(channels_in, channels, kernel, stride, padding, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(channels)]


def _conv_bn_prelu(channels_in: int, channels: int, kernel: int, stride: int = 1, groups: int = 1) -> _Layers:
    layers = _conv_bn(channels_in, channels, kernel, stride, kernel // 2, groups)
    return _Layers(*layers, nn.PReLU(channels))


class SeparableBlock(_Layers):
    """A block; see ``BlockSize``."""

    def __init__(self, channels_in: int, size: BlockSize) -> None:
        hidden = size.hidden
        super().__init__(
            _conv_bn_prelu(channels_in, hidden, 1),
            _conv_bn_prelu(hidden, hidden, 3, size.stride, groups=hidden),
            _Layers(*_conv_bn(hidden, size.channels, 1, 1, 0, 1)),
        )
        self.residual = size.stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        out: Tensor = self.layers(x)
        return x + out if self.residual else out


class MobileFaceNetMbf(ChainModel):
    """MobileFaceNet in InsightFace's variant.

    Input float N,3,112,112, ``(x / 255 - 0.5) / 0.5`` of RGB pixels; output N,``embedding_dim``.

    Args:
        embedding_dim: Length of an embedding.
        sizes: Widths and depths.
    """

    def __init__(self, embedding_dim: int = 512, sizes: MbfSizes = _MBF) -> None:
        super().__init__(embedding_dim, InputSpec())
        self.model_name = "mobilefacenet_mbf"
        width = sizes.stem
        parts: list[nn.Module] = [_conv_bn_prelu(3, width, 3, 2)]
        if sizes.groups:
            parts.append(_conv_bn_prelu(width, width, 3, groups=sizes.groups))
        for stride, run in itertools.groupby(sizes.blocks, lambda size: size.stride):
            blocks = []
            for size in run:
                blocks.append(SeparableBlock(width, size))
                width = size.channels
            parts += blocks if stride > 1 else [_Layers(*blocks)]
        self.layers = nn.Sequential(*parts)
        features = sizes.features
        self.conv_sep = _conv_bn_prelu(width, features, 1)
        self.features = _Layers(
            _Layers(*_conv_bn(features, features, 7, 1, 0, features)),
            nn.Flatten(),
            nn.Linear(features, embedding_dim, bias=False),
            nn.BatchNorm1d(embedding_dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Compute the embeddings of a batch."""
        out: Tensor = self.features(self.conv_sep(self.layers(x)))
        return out

    def forward_maps(self, x: Tensor, names: Collection[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the embeddings and keep feature maps (see ``EmbeddingModel``)."""
        maps = {}
        for part in self.layers:
            x = part(x)
            maps[str(x.shape[2])] = x
        maps["tail"] = x = self.conv_sep(x)
        self._check_maps(maps, names)
        return self.features(x), {name: maps[name] for name in names}

    def tail_layers(self) -> tuple[nn.Module, nn.Module, nn.Module, nn.Module]:
        """The layers after the map "tail"; the product is a matrix."""
        depthwise, _, linear, last = self.features.layers
        assert isinstance(depthwise, _Layers)
        filtering, norm = depthwise.layers
        return filtering, norm, linear, last

    def units(self) -> list[Unit]:
        """The units, named as the layers are."""
        units: list[Unit] = []
        for number, part in enumerate(self.layers):
            _add_units(f"layers.{number}", part, units)
        depthwise, norm, linear, last = self.tail_layers()
        return [
            *units,
            unit_of("conv_sep", self.conv_sep.layers),
            unit_of("features.depthwise", nn.Sequential(depthwise, norm)),
            unit_of("features.linear", nn.Sequential(linear, last)),
        ]


def _add_units(name: str, part: nn.Module, units: list[Unit]) -> None:
    """Append those of a convolution, a block, or several blocks in a row."""
    assert isinstance(part, _Layers)
    inner = [*part.layers]
    if isinstance(part, SeparableBlock):
        expansion, filtering, projection = (p.layers for p in inner if isinstance(p, _Layers))
        units.append(unit_of(f"{name}.expansion", expansion))
        units.append(unit_of(f"{name}.depthwise", filtering))
        units.append(unit_of(name, projection, around=3 if part.residual else 0))
    elif isinstance(inner[0], nn.Conv2d):
        units.append(unit_of(name, part.layers))
    else:
        for number, block in enumerate(inner):
            _add_units(f"{name}.{number}", block, units)
