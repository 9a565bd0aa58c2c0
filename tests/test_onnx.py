"""ONNX files: what another runtime computes from them, what they carry, what is refused."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from batches import SmallNetwork, fitting, others
from exported_files import traces
from helpers import random_genotype, randomize_, relative_error
from torch import Tensor
from typer.testing import CliRunner

from pocketnet_fast.cli.main import app
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.export.onnx import export_onnx
from pocketnet_fast.export.source import METADATA_FILE
from pocketnet_fast.models.base import EmbeddingModel
from pocketnet_fast.models.mobilefacenet import MobileFaceNet
from pocketnet_fast.models.pocketnet import PocketNet

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def model() -> PocketNet:
    return randomize_(PocketNet(random_genotype(11), 4, 4, 16), 11)


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    generator = np.random.default_rng(2)
    return torch.from_numpy(generator.integers(0, 256, (5, 112, 112, 3), dtype=np.uint8))


def run(path: Path, images: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (embeddings,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    return torch.from_numpy(embeddings)


def expected(model: EmbeddingModel, pixels: Tensor, color: str = "rgb") -> Tensor:
    with torch.no_grad():
        out: Tensor = model(model.input_spec.normalize(pixels, color=color))
        return out


@pytest.mark.slow
@pytest.mark.parametrize(("input", "color"), [("float", "rgb"), ("uint8", "rgb"), ("uint8", "bgr")])
def test_embeddings(model: PocketNet, pixels: Tensor, tmp_path: Path, input: str, color: str) -> None:
    report = export_onnx(model, tmp_path / "m.onnx", input=input, color=color)
    assert report.error < 1e-4
    images = pixels if input == "uint8" else model.input_spec.normalize(pixels)
    for size in (5, 1):
        found = run(report.path, images[:size])
        assert relative_error(found, expected(model, pixels[:size], color)) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("input", ["float", "uint8"])
def test_every_batch(pixels: Tensor, tmp_path: Path, input: str) -> None:
    torch.manual_seed(0)
    network = SmallNetwork().eval()
    path = export_onnx(network, tmp_path / "m.onnx", input=input).path
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    images = pixels[:3] if input == "uint8" else network.input_spec.normalize(pixels[:3])
    for name, batch in fitting(images):
        with torch.no_grad():
            wanted = network(network.input_spec.normalize(batch) if input == "uint8" else batch)
        (found,) = session.run(None, {"images": batch.numpy()})
        assert found.shape == tuple(wanted.shape), name
        if len(batch):
            assert relative_error(torch.from_numpy(found), wanted) < 1e-4, name
    for name, batch in others(images):
        if name not in ("meta", "torch.bfloat16"):  # NumPy has neither
            with pytest.raises(Exception, match=r"INVALID_ARGUMENT|Unexpected input|Invalid rank"):
                session.run(None, {"images": batch.numpy()})
                pytest.fail(f"{name} was taken")


@pytest.mark.slow
def test_no_trace_of_this_machine(model: PocketNet, tmp_path: Path) -> None:
    assert traces(export_onnx(model, tmp_path / "m.onnx").path) == []


@pytest.mark.slow
def test_another_network(pixels: Tensor, tmp_path: Path) -> None:
    network = randomize_(MobileFaceNet(), 1)
    report = export_onnx(network, tmp_path / "m.onnx", input="uint8")
    assert relative_error(run(report.path, pixels), expected(network, pixels)) < 1e-4


@pytest.mark.slow
def test_metadata_and_command_line(tmp_path: Path) -> None:
    target = tmp_path / "s128.onnx"
    result = CliRunner().invoke(app, ["export", "--untrained", "-o", str(target), "--json"])
    assert result.exit_code == 0, result.output
    session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    carried = json.loads(session.get_modelmeta().custom_metadata_map[METADATA_FILE])
    assert carried == json.loads(result.stdout)["metadata"]
    assert carried["format"] == "pocketnet_fast.onnx"
    assert [value.name for value in session.get_inputs()] == ["images"]
    assert [value.name for value in session.get_outputs()] == ["embeddings"]
    assert list(tmp_path.iterdir()) == [target]


def test_what_is_refused(model: PocketNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PocketNetError, match=r"m\.pt: ONNX files are written as \.onnx"):
        export_onnx(model, tmp_path / "m.pt")
    with pytest.raises(PocketNetError, match="input is 'uint16'"):
        export_onnx(model, tmp_path / "m.onnx", input="uint16")
    for arguments, message in (
        (["-o", "m.bin"], "m.bin: a name in .pt, .pt2, .onnx, .pnf says the format"),
        (
            ["-o", "m.pt", "--format", "tflite"],
            "format is 'tflite'; expected one of torchscript, aotinductor",
        ),
        (["-o", "m.onnx", "--device", "cuda"], "--device belongs to the format aotinductor"),
        (["-o", "m.onnx", "--kernels", "fused"], "an ONNX file has standard operators only"),
    ):
        result = CliRunner().invoke(app, ["export", "--untrained", *arguments])
        assert isinstance(result.exception, PocketNetError)
        assert message in str(result.exception)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PocketNetError, match=r"ONNX needs onnx, .*: pip install 'pocketnet_fast\[onnx\]'"):
        export_onnx(model, tmp_path / "m.onnx")
