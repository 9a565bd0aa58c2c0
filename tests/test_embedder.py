"""What is embedded is finite, or named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from faces import crop

from pocketnet_fast import create_model
from pocketnet_fast.data.images import encode_image
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.faces.pipeline import Embedder
from pocketnet_fast.faces.sources import FaceSource
from pocketnet_fast.models.pocketnet import PocketNet


@pytest.fixture(scope="module", params=["fused", "eager"])
def overflowing(request: pytest.FixtureRequest) -> Embedder:
    """A network of finite weights whose embeddings are not."""
    torch.manual_seed(0)
    network = create_model("pocketnet", genotype="softmax_casia", channels=4, layers=4, embedding_dim=8)
    assert isinstance(network, PocketNet)
    last = network.tail[7]
    assert isinstance(last, torch.nn.BatchNorm2d)
    with torch.no_grad():
        last.weight.fill_(3e38)
        network.tail[6].weight.mul_(1e4)
    return Embedder(network, engine=request.param, batch_size=2)


def test_the_crop_is_named(overflowing: Embedder) -> None:
    crops = np.stack([crop(number) for number in range(3)])
    with pytest.raises(PocketNetError, match=r"crop 0: the embedding by pocketnet is not finite \(3 of 3\)"):
        overflowing(crops)
    with pytest.raises(PocketNetError, match=r"b: the embedding"):
        overflowing(crops[:1], ["b"])


def test_the_photo_is_named(overflowing: Embedder, tmp_path: Path) -> None:
    path = tmp_path / "face.png"
    path.write_bytes(encode_image(crop(0), ".png"))
    with pytest.raises(PocketNetError, match=rf"{path}: the embedding"):
        list(FaceSource(overflowing).faces([path]))
