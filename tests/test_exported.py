"""Exported files as an engine: whatever they take, the embeddings are those of the weights."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from calibrations import calibration_of
from exported_forms import FORMS, small_network
from faces import crop
from helpers import randomize_

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.export.exported import is_exported, load_exported
from pocketnet_fast.export.torchscript import METADATA_FILE, export_torchscript
from pocketnet_fast.faces.pipeline import Embedder
from pocketnet_fast.models.base import EmbeddingModel
from pocketnet_fast.models.mobilefacenet import MobileFaceNet
from pocketnet_fast.models.pocketnet import PocketNet
from pocketnet_fast.models.weights import weights_sha256


@pytest.fixture(scope="module")
def model() -> PocketNet:
    return small_network()


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    return np.stack([crop(number) for number in range(5)])


@pytest.mark.slow
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("kernels", "input", "color"), [*FORMS, ("fused", "uint8", "rgb"), ("aten", "uint8", "rgb")]
)
def test_embeddings_are_those_of_the_weights(
    tmp_path: Path, model: PocketNet, crops: np.ndarray, kernels: str, input: str, color: str, flip: bool
) -> None:
    path = export_torchscript(model, tmp_path / "m.pt", kernels=kernels, input=input, color=color).path
    assert is_exported(path)
    embedder = Embedder(load_exported(path), flip=flip, batch_size=2, threads=1)
    expected = Embedder(model, engine="eager", flip=flip)(crops)
    assert np.abs(embedder(crops) - expected).max() < 1e-4 * np.abs(expected).max()
    assert embedder(crops[:0]).shape == (0, 32)
    assert (embedder.engine, embedder.note) == ("torchscript", None)
    assert (embedder.model_name, embedder.embedding_dim) == (model.model_name, 32)
    assert embedder.weights_sha256 == weights_sha256(model)
    assert embedder.calibration is None


def test_another_normalisation(tmp_path: Path, crops: np.ndarray) -> None:
    network = randomize_(MobileFaceNet(), 1)
    path = export_torchscript(network, tmp_path / "m.pt", kernels="aten").path
    expected = Embedder(network, engine="eager")(crops)
    found = Embedder(load_exported(path), engine="torchscript")(crops)
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_the_calibration_travels_along(tmp_path: Path, model: PocketNet) -> None:
    calibration = calibration_of(weights_sha256(model), {1e-3: 0.25, 1e-4: 0.31, 1e-5: 0.4})
    network = PocketNet(model.genotype, 8, 4, 32)
    network.load_state_dict(model.state_dict())
    network.calibration = calibration
    report = export_torchscript(network, tmp_path / "m.pt")
    assert report.metadata["calibration"] == calibration.as_dict()
    assert (report.metadata["calibration"]["threshold"], report.metadata["calibration"]["default_far"]) == (
        0.31,
        1e-4,
    )
    assert load_exported(report.path).calibration == calibration
    assert Embedder(load_exported(report.path)).calibration == calibration
    assert Embedder(network, engine="eager").calibration == calibration
    with torch.no_grad():
        network.stem[0].weight += 1
    # Other weights, so the threshold says nothing about them.
    assert export_torchscript(network, tmp_path / "m.pt").metadata["calibration"] is None
    assert Embedder(network, engine="eager").calibration is None


def test_engines_and_models_that_do_not_fit(tmp_path: Path, model: EmbeddingModel) -> None:
    exported = load_exported(export_torchscript(model, tmp_path / "m.pt").path)
    for engine in ("eager", "fused"):
        with pytest.raises(PocketNetError, match=f"runs as it is; the {engine} engine takes weights"):
            Embedder(exported, engine=engine)
    with pytest.raises(
        PocketNetError, match="the torchscript engine runs files that `pocketnet export` wrote"
    ):
        Embedder(model, engine="torchscript")


def rewritten(path: Path, target: Path, change: dict[str, Any] | list[int], drop: str = "") -> Path:
    """The file with other metadata, or without one of its parts."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            if drop and drop in name:
                continue
            data = old.read(name)
            if name.endswith(METADATA_FILE):
                stated = json.loads(data)
                data = json.dumps(stated | change if isinstance(change, dict) else change).encode()
            new.writestr(name, data)
    return target


def test_damaged_files(tmp_path: Path, model: EmbeddingModel) -> None:
    path = export_torchscript(model, tmp_path / "m.pt").path
    bad = tmp_path / "bad.pt"
    for change, drop, message in (
        ({"input": None}, "", f"damaged: its {METADATA_FILE} does not describe a network"),
        ({"input": {"dtype": "uint8"}}, "", "does not describe a network"),
        ({"calibration": {"threshold": 1}}, "", "damaged: its calibration has other fields"),
        ({}, "/code/", "cannot be loaded as TorchScript"),
        ([1], "", "not a TorchScript file of pocketnet_fast"),
    ):
        with pytest.raises(PocketNetError, match=rf"bad\.pt.*{message}") as error:
            load_exported(rewritten(path, bad, change, drop))
        assert "\n" not in str(error.value)
    for content in (b"", path.read_bytes()[:1000]):
        bad.write_bytes(content)
        assert not is_exported(bad)
    torch.save(model.state_dict(), bad)
    assert not is_exported(bad)
    assert not is_exported(tmp_path / "none.pt")
