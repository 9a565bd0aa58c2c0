"""TorchScript files: what they compute, what they carry, and what is refused."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from batches import fitting, others
from exported_files import traces
from helpers import random_genotype, randomize_, relative_error
from torch import Tensor
from typer.testing import CliRunner

import pocketnet_fast
from pocketnet_fast.cli.main import app
from pocketnet_fast.data.alignment import TEMPLATE
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.export.source import METADATA_FILE
from pocketnet_fast.export.torchscript import export_torchscript
from pocketnet_fast.export.torchscript_file import read_metadata
from pocketnet_fast.models.base import EmbeddingModel
from pocketnet_fast.models.mobilefacenet import MobileFaceNet
from pocketnet_fast.models.pocketnet import PocketNet
from pocketnet_fast.models.weights import weights_sha256


@pytest.fixture(scope="module")
def model() -> PocketNet:
    return randomize_(PocketNet(random_genotype(11), 8, 4, 32), 11)


@pytest.fixture(scope="module")
def mobilefacenet() -> MobileFaceNet:
    return randomize_(MobileFaceNet(), 1)


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randint(
        0, 256, (4, 112, 112, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)
    )


def expected(model: EmbeddingModel, pixels: Tensor, color: str = "rgb") -> Tensor:
    with torch.no_grad():
        out: Tensor = model(model.input_spec.normalize(pixels, color=color))
        return out


@pytest.mark.parametrize("input", ["float", "uint8"])
@pytest.mark.parametrize("kernels", ["fused", "aten"])
def test_embeddings(tmp_path: Path, model: PocketNet, pixels: Tensor, kernels: str, input: str) -> None:
    report = export_torchscript(model, tmp_path / "model.pt", kernels=kernels, input=input)
    assert report.error < 1e-4
    assert report.size == report.path.stat().st_size
    loaded = torch.jit.load(report.path)
    images = pixels if input == "uint8" else model.input_spec.normalize(pixels)
    for size in (4, 1, 3):
        assert relative_error(loaded(images[:size]), expected(model, pixels[:size])) < 1e-4
    assert loaded(images[:0]).shape == (0, 32)


@pytest.fixture(scope="module")
def files(model: PocketNet, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    folder = tmp_path_factory.mktemp("files")
    return {
        (kernels, input): export_torchscript(
            model, folder / f"{kernels}-{input}.pt", kernels=kernels, input=input
        ).path
        for kernels in ("fused", "aten")
        for input in ("float", "uint8")
    }


@pytest.fixture(params=itertools.product(("fused", "aten"), ("float", "uint8")), ids="-".join)
def exported(
    request: pytest.FixtureRequest, files: dict[tuple[str, str], Path], model: PocketNet, pixels: Tensor
) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """A file that was loaded, and images as it takes them."""
    images = pixels[:3] if request.param[1] == "uint8" else model.input_spec.normalize(pixels[:3])
    return torch.jit.load(files[request.param]), images


@pytest.mark.slow
def test_every_batch_that_fits(exported: tuple[Callable[[Tensor], Tensor], Tensor], model: PocketNet) -> None:
    loaded, images = exported
    for name, batch in fitting(images):
        with torch.no_grad():
            normalized = model.input_spec.normalize(batch) if images.dtype == torch.uint8 else batch
            wanted = model(normalized.contiguous())
        found = loaded(batch)
        assert found.shape == wanted.shape, name
        if len(batch):
            assert relative_error(found, wanted) < 1e-4, name


def test_every_batch_that_does_not(exported: tuple[Callable[[Tensor], Tensor], Tensor]) -> None:
    loaded, images = exported
    for name, batch in others(images):
        try:
            found = loaded(batch)
        except (RuntimeError, torch.jit.Error):
            continue
        # A shape without data is answered by a shape.
        assert (name, found.device.type, found.shape) == ("meta", "meta", (3, 32))


@pytest.mark.parametrize("input", ["float", "uint8"])
@pytest.mark.parametrize("kernels", ["fused", "aten"])
def test_no_trace_of_this_machine(files: dict[tuple[str, str], Path], kernels: str, input: str) -> None:
    assert traces(files[kernels, input]) == []
    if kernels == "aten":
        with pytest.raises((RuntimeError, torch.jit.Error)) as error:
            torch.jit.load(files[kernels, input])(torch.zeros(1))
        assert str(Path(__file__).parent.parent) not in str(error.value)


@pytest.mark.parametrize("kernels", ["fused", "aten"])
def test_bgr(tmp_path: Path, model: PocketNet, pixels: Tensor, kernels: str) -> None:
    report = export_torchscript(model, tmp_path / "m.pt", kernels=kernels, input="uint8", color="bgr")
    out = torch.jit.load(report.path)(pixels)
    assert relative_error(out, expected(model, pixels, "bgr")) < 1e-4
    assert report.metadata["input"]["color"] == "bgr"


def test_half_precision(tmp_path: Path, model: PocketNet, pixels: Tensor) -> None:
    report = export_torchscript(model, tmp_path / "m.pt", input="uint8", precision="bf16")
    assert report.metadata["precision"] == "bf16"
    out = torch.jit.load(report.path)(pixels)
    assert torch.equal(out, pocketnet_fast.compile(model, precision="bf16")(pixels))
    assert "of 1e-01" in str(report)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int8"}, "precision is 'int8'; expected one of"),
        ({"precision": "fp16"}, "those of the CPU have fp32 and bf16"),
        ({"precision": "bf16", "kernels": "aten"}, "'bf16' is for the fused kernels"),
    ],
)
def test_a_precision_that_there_is_not(
    tmp_path: Path, model: PocketNet, options: dict[str, str], message: str
) -> None:
    with pytest.raises(PocketNetError, match=message):
        export_torchscript(model, tmp_path / "m.pt", **options)
    assert not (tmp_path / "m.pt").exists()


def test_other_normalisation(tmp_path: Path, mobilefacenet: MobileFaceNet, pixels: Tensor) -> None:
    report = export_torchscript(mobilefacenet, tmp_path / "m.pt", kernels="aten", input="uint8")
    out = torch.jit.load(report.path)(pixels)
    assert relative_error(out, expected(mobilefacenet, pixels)) < 1e-4
    assert report.metadata["input"]["normalization"]["mean"] == [0.485, 0.456, 0.406]


@pytest.mark.slow
def test_fused_file_needs_the_library_and_aten_does_not(tmp_path: Path, model: PocketNet) -> None:
    load = "import sys, torch; torch.jit.load(sys.argv[1])(torch.zeros(1, 3, 112, 112)); print('ran')"
    for kernels, code, runs in (
        ("aten", load, True),
        ("fused", load, False),
        ("fused", "import pocketnet_fast.ops.native as n; n.extension(); " + load, True),
    ):
        path = export_torchscript(model, tmp_path / f"{kernels}.pt", kernels=kernels).path
        done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
        assert (done.stdout.strip() == "ran") == runs, done.stderr
        if not runs:
            assert "run_plan" in done.stderr


@pytest.mark.parametrize("kernels", ["fused", "aten"])
def test_metadata(tmp_path: Path, model: PocketNet, kernels: str) -> None:
    report = export_torchscript(model, tmp_path / "m.pt", kernels=kernels, input="uint8")
    facts = read_metadata(report.path)
    assert facts == report.metadata
    extra = {METADATA_FILE: ""}
    torch.jit.load(report.path, _extra_files=extra)
    assert json.loads(extra[METADATA_FILE]) == facts
    assert facts["embedding_dim"] == 32
    assert facts["version"] == pocketnet_fast.__version__
    assert facts["weights_sha256"] == weights_sha256(model)
    assert facts["alignment_template"] == TEMPLATE.tolist()
    assert facts["kernels"] == kernels
    assert facts["input"]["dtype"] == "uint8"
    assert facts["input"]["shape"] == ["N", 112, 112, 3]


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = randomize_(PocketNet(random_genotype(11), 8, 4, 32), 11)
    model.train()
    model.tail.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    export_torchscript(model, tmp_path / "m.pt", kernels="aten")
    assert model.training
    assert not model.tail.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_what_is_refused(tmp_path: Path, model: PocketNet) -> None:
    target = tmp_path / "m.pt"
    for options, message in (
        ({"kernels": "cuda"}, "kernels is 'cuda'; expected 'fused' or 'aten'"),
        ({"input": "uint16"}, "input is 'uint16'"),
        ({"color": "gray", "input": "uint8"}, "color is 'gray'"),
        ({"color": "bgr"}, "color concerns uint8 input"),
    ):
        with pytest.raises(PocketNetError, match=message):
            export_torchscript(model, target, **options)
    with pytest.raises(PocketNetError, match=r"iresnet18 has no fused form.*\(--kernels aten\) exports it"):
        export_torchscript(pocketnet_fast.create_model("iresnet18"), target)
    with pytest.raises(PocketNetError, match="a Linear cannot be exported"):
        export_torchscript(torch.nn.Linear(3, 3), target)
    assert not target.exists()


def test_a_network_that_exports_wrongly_is_not_written(tmp_path: Path) -> None:
    model = randomize_(PocketNet(random_genotype(11), 8, 4, 32), 11)
    with torch.no_grad():
        model.stem[0].weight.fill_(float("nan"))
    target = tmp_path / "m.pt"
    target.write_bytes(b"old")
    with pytest.raises(PocketNetError, match="off the source model"):
        export_torchscript(model, target)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_read_metadata_of_other_files(tmp_path: Path) -> None:
    other = tmp_path / "other.pt"
    for content in (b"", b"PK\x03\x04 not a zip"):
        other.write_bytes(content)
        with pytest.raises(PocketNetError, match=r"other\.pt: not a TorchScript file"):
            read_metadata(other)
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), other)
    with pytest.raises(PocketNetError, match=r"other\.pt: not a TorchScript file"):
        read_metadata(other)


def test_command(tmp_path: Path) -> None:
    target = tmp_path / "s128.pt"
    result = CliRunner().invoke(
        app, ["export", "-o", str(target), "--untrained", "--input", "uint8", "--json"]
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["error"] < 1e-4
    assert report["bytes"] == target.stat().st_size
    assert read_metadata(target)["model"] == "pocketnet_s128"
    refused = CliRunner().invoke(app, ["export", "--model", "pocketnet_s256", "-o", str(target)])
    assert isinstance(refused.exception, PocketNetError)
    assert "no trained weights" in str(refused.exception)
