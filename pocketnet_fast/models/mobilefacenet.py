"""MobileFaceNet (Chen et al., 2018) in the variant with MobileNetV2's ReLU6 blocks and a convolutional head.

The layout is that of the trained network whose weights are distributed as ``mobilefacenet_ms1m.safetensors``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection

import torch
from torch import Tensor, nn

from pocketnet_fast.models.base import InputSpec
from pocketnet_fast.models.chain import ChainModel, Unit, unit_of

_INPUT_SPEC = InputSpec(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

# (expansion, channels, blocks, stride of the first block)
_STAGES = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))


def _conv_bn_relu6(
    channels_in: int, channels: int, kernel_size: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    conv = nn.Conv2d(channels_in, channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU6())


class InvertedResidual(nn.Module):
    """Expand by a 1x1, depthwise 3x3, project by a 1x1; added to the input where the shapes agree."""

    def __init__(self, channels_in: int, channels: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = expansion * channels_in
        self.residual = stride == 1 and channels_in == channels
        self.conv = nn.Sequential(
            _conv_bn_relu6(channels_in, hidden, 1),
            _conv_bn_relu6(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        out: Tensor = self.conv(x)
        return x + out if self.residual else out


class MobileFaceNet(ChainModel):
    """MobileFaceNet.

    Input float N,3,112,112, ``(x / 255 - mean) / std`` of RGB pixels with ImageNet's mean and deviation (see
    ``input_spec``); output N,``embedding_dim``.
    """

    def __init__(self, embedding_dim: int = 128) -> None:
        super().__init__(embedding_dim, _INPUT_SPEC)
        self.conv1 = _conv_bn_relu6(3, 64, 3, 2)
        self.dw_conv = nn.Sequential(
            OrderedDict(
                depthwise=nn.Conv2d(64, 64, 3, 1, 1, groups=64, bias=False),
                bn1=nn.BatchNorm2d(64),
                relu1=nn.ReLU(),
                pointwise=nn.Conv2d(64, 64, 1, bias=False),
                bn2=nn.BatchNorm2d(64),
                relu2=nn.ReLU(),
            )
        )
        width = 64
        features = []
        for expansion, channels, blocks, first_stride in _STAGES:
            for block in range(blocks):
                stride = first_stride if block == 0 else 1
                features.append(InvertedResidual(width, channels, expansion, stride))
                width = channels
        self.features = nn.Sequential(*features)
        self.conv2 = _conv_bn_relu6(width, 512, 1)
        self.gdconv = nn.Sequential(
            OrderedDict(depthwise=nn.Conv2d(512, 512, 7, groups=512, bias=False), bn=nn.BatchNorm2d(512))
        )
        self.conv3 = nn.Conv2d(512, embedding_dim, 1)
        self.bn = nn.BatchNorm2d(embedding_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the embeddings of a batch."""
        x = self.conv2(self.features(self.dw_conv(self.conv1(x))))
        return torch.flatten(self.bn(self.conv3(self.gdconv(x))), 1)

    def forward_maps(self, x: Tensor, names: Collection[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the embeddings and keep feature maps (see ``EmbeddingModel``)."""
        maps = {}
        x = self.dw_conv(self.conv1(x))
        maps[str(x.shape[2])] = x
        for block in self.features:
            x = block(x)
            maps[str(x.shape[2])] = x
        maps["tail"] = x = self.conv2(x)
        self._check_maps(maps, names)
        embedding = torch.flatten(self.bn(self.conv3(self.gdconv(x))), 1)
        return embedding, {name: maps[name] for name in names}

    def units(self) -> list[Unit]:
        """The units, named as the layers are."""
        depthwise, bn1, relu1, pointwise, bn2, relu2 = self.dw_conv.children()
        units = [
            unit_of("conv1", self.conv1),
            unit_of("dw_conv.depthwise", nn.Sequential(depthwise, bn1, relu1)),
            unit_of("dw_conv", nn.Sequential(pointwise, bn2, relu2)),
        ]
        for number, block in enumerate(self.features):
            assert isinstance(block, InvertedResidual)
            name = f"features.{number}"
            expansion, filtering, projection, norm = block.conv.children()
            units += [
                unit_of(f"{name}.expansion", expansion),
                unit_of(f"{name}.depthwise", filtering),
                unit_of(name, nn.Sequential(projection, norm), around=3 if block.residual else 0),
            ]
        end = nn.Sequential(self.conv3, self.bn)
        return [*units, unit_of("conv2", self.conv2), unit_of("gdconv", self.gdconv), unit_of("conv3", end)]

    def tail_layers(self) -> tuple[nn.Module, nn.Module, nn.Module, nn.Module]:
        """The layers after the map "tail"."""
        depthwise, norm = self.gdconv
        return depthwise, norm, self.conv3, self.bn
