from __future__ import annotations

from pathlib import Path

import pytest

from pocketnet_fast import FaceAnalyzer, create_model
from pocketnet_fast.data.images import encode_image
from pocketnet_fast.export import export_torchscript
from pocketnet_fast.export.photos import check_scene


@pytest.fixture(scope="session")
def faces_pt(analyzer: FaceAnalyzer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported analyzer: photos in, faces and embeddings out."""
    return export_torchscript(analyzer, tmp_path_factory.mktemp("model") / "faces.pt").path


@pytest.fixture(scope="session")
def crops_pt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported network of the same weights: aligned crops in, embeddings out."""
    model = create_model("pocketnet_s128", pretrained=True)
    return export_torchscript(model, tmp_path_factory.mktemp("model") / "crops.pt", input="uint8").path


@pytest.fixture(scope="session")
def photo() -> bytes:
    """A PNG file of two rendered faces."""
    return encode_image(check_scene(), ".png")
