"""iResNet (Duta et al., 2020), the improved residual network that ArcFace trains, in 112x112 form.

Attribute names are those of the widely used arcface_torch checkpoints, so that their ``state_dict`` loads
strictly.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from pocketnet_fast.models.base import EmbeddingModel


class ResidualBlock(nn.Module):
    """BN, conv 3x3, BN, PReLU, conv 3x3 of the given stride, BN, added to the (projected) input."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.prelu = nn.PReLU(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module
        if stride == 1 and channels_in == channels:
            self.downsample = nn.Identity()
        else:
            projection = nn.Conv2d(channels_in, channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        out = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        total: Tensor = self.bn3(self.conv2(out)) + self.downsample(x)
        return total


class IResNet(EmbeddingModel):
    """iResNet with four stages of 64, 128, 256 and 512 channels.

    Input float N,3,112,112, ``(x / 255 - 0.5) / 0.5`` of RGB pixels; output N,``embedding_dim``.

    Args:
        blocks: Residual blocks per stage.
        embedding_dim: Length of the embedding.
    """

    def __init__(self, blocks: tuple[int, int, int, int], embedding_dim: int = 512) -> None:
        super().__init__(embedding_dim)
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU(64)
        self.layer1 = self._stage(64, 64, blocks[0])
        self.layer2 = self._stage(64, 128, blocks[1])
        self.layer3 = self._stage(128, 256, blocks[2])
        self.layer4 = self._stage(256, 512, blocks[3])
        self.bn2 = nn.BatchNorm2d(512)
        self.dropout = nn.Dropout(0.0)
        self.fc = nn.Linear(512 * 7 * 7, embedding_dim)
        self.features = nn.BatchNorm1d(embedding_dim)
        # A learned scale here would only rescale the embedding, which the margin loss normalises away.
        nn.init.ones_(self.features.weight).requires_grad_(False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.1)

    @staticmethod
    def _stage(channels_in: int, channels: int, blocks: int) -> nn.Sequential:
        rest = (ResidualBlock(channels, channels, 1) for _ in range(blocks - 1))
        return nn.Sequential(ResidualBlock(channels_in, channels, 2), *rest)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the embeddings of a batch."""
        x = self.prelu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = torch.flatten(self.bn2(x), 1)
        embedding: Tensor = self.features(self.fc(self.dropout(x)))
        return embedding

    def forward_maps(self, x: Tensor, names: Collection[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the embeddings and keep feature maps (see ``EmbeddingModel``; there is no "tail")."""
        maps = {}
        x = self.prelu(self.bn1(self.conv1(x)))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            maps[str(x.shape[2])] = x
        self._check_maps(maps, names)
        embedding = self.features(self.fc(self.dropout(torch.flatten(self.bn2(x), 1))))
        return embedding, {name: maps[name] for name in names}
