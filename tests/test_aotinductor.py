"""AOTInductor packages: what they compute in Python and in C++, what they carry, what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from batches import SmallNetwork, fitting, others
from exported_files import traces
from helpers import random_genotype, randomize_, relative_error
from hosting import carried, check_content, hosted
from native import cpp_host
from torch import Tensor, nn

import pocketnet_fast
from pocketnet_fast.data.images import encode_image
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.export.aotinductor import export_aotinductor, load_package, read_package_metadata
from pocketnet_fast.export.archive import rewritten
from pocketnet_fast.export.check import check_crop
from pocketnet_fast.export.source import ExportReport
from pocketnet_fast.models.base import EmbeddingModel
from pocketnet_fast.models.pocketnet import PocketNet
from pocketnet_fast.models.weights import weights_sha256
from pocketnet_fast.ops.native import library_path

KINDS = [("fused", "uint8", "bgr"), ("aten", "float", "rgb")]
# What is called with every batch there is: the kinds above, and those that are left.
CHECKED = ["fused", "aten", "fused float", "aten uint8"]


@pytest.fixture(scope="module")
def model() -> PocketNet:
    """Of two nodes a cell, as Inductor takes half a minute for four."""
    return randomize_(PocketNet(random_genotype(11, nodes=2), 4, 4, 16), 11)


@pytest.fixture(scope="module")
def reports(model: PocketNet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ExportReport]:
    folder = tmp_path_factory.mktemp("packages")
    made = {}
    for kernels, input, color in KINDS:
        path = folder / f"{kernels}.pt2"
        made[kernels] = export_aotinductor(model, path, kernels=kernels, input=input, color=color)
    return made


@pytest.fixture(scope="module")
def checked(
    model: PocketNet, reports: dict[str, ExportReport], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[EmbeddingModel, ExportReport]]:
    folder = tmp_path_factory.mktemp("checked")
    torch.manual_seed(0)
    small = SmallNetwork().eval()
    return {
        **{name: (model, report) for name, report in reports.items()},
        "fused float": (model, export_aotinductor(model, folder / "fused.pt2")),
        "aten uint8": (
            small,
            export_aotinductor(small, folder / "small.pt2", kernels="aten", input="uint8"),
        ),
    }


def in_torch(model: EmbeddingModel, report: ExportReport, images: Tensor) -> Tensor:
    """What the network makes of images as the file takes them."""
    stated = report.metadata["input"]
    if stated["dtype"] == "uint8":
        images = model.input_spec.normalize(images.contiguous(), color=stated["color"])
    with torch.no_grad():
        out: Tensor = model(images.contiguous())
        return out


def input_of(model: EmbeddingModel, report: ExportReport, pixels: Tensor) -> Tensor:
    """Images as a file takes them."""
    return pixels if report.metadata["input"]["dtype"] == "uint8" else model.input_spec.normalize(pixels)


@dataclass(frozen=True)
class Loaded:
    """A file as this package loads it, and as a program that knows nothing of it does; images it takes."""

    model: EmbeddingModel
    report: ExportReport
    images: Tensor
    ours: Callable[[Tensor], Tensor]
    theirs: Callable[[Tensor], Tensor]


@pytest.fixture(params=CHECKED)
def loaded(
    request: pytest.FixtureRequest, checked: dict[str, tuple[EmbeddingModel, ExportReport]], pixels: Tensor
) -> Loaded:
    model, report = checked[request.param]
    images = input_of(model, report, pixels[:3])
    ours, theirs = load_package(report.path), torch._inductor.aoti_load_package(str(report.path))
    return Loaded(model, report, images, ours, theirs)


@pytest.mark.slow
def test_every_batch_that_fits(loaded: Loaded) -> None:
    for name, batch in fitting(loaded.images):
        expected = in_torch(loaded.model, loaded.report, batch)
        for run in (loaded.ours, loaded.theirs):
            found = run(batch)
            assert found.shape == expected.shape, name
            if len(batch):
                assert relative_error(found, expected) < 1e-4, name


@pytest.mark.slow
def test_every_batch_that_does_not(loaded: Loaded) -> None:
    # As it is without torch's variable.
    assert "AOTI_RUNTIME_CHECK_INPUTS" not in os.environ
    for name, batch in others(loaded.images):
        with pytest.raises(PocketNetError, match="; the file takes "):
            loaded.ours(batch)
        try:
            found = loaded.theirs(batch)
        except RuntimeError:
            continue
        # A shape without data is answered by a shape.
        assert (name, found.device.type, len(found)) == ("meta", "meta", 3)
    assert torch.isfinite(loaded.theirs(loaded.images)).all()
    with pytest.raises(PocketNetError, match="images are a list"):
        loaded.ours([loaded.images])  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("kind", CHECKED)
def test_no_trace_of_this_machine(checked: dict[str, tuple[EmbeddingModel, ExportReport]], kind: str) -> None:
    assert traces(checked[kind][1].path) == []


@pytest.mark.slow
def test_loading_is_silent(reports: dict[str, ExportReport]) -> None:
    code = "import sys, torch; torch._inductor.aoti_load_package(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, reports["aten"].path], capture_output=True, text=True, check=True
    )
    assert done.stdout + done.stderr == ""


@pytest.mark.slow
def test_a_package_for_another_machine(reports: dict[str, ExportReport], tmp_path: Path) -> None:
    def elsewhere(name: str, content: bytes) -> bytes:
        return content.replace(b"x86_64", b"pdp_11") if name.endswith("_metadata.json") else content

    other = tmp_path / "m.pt2"
    machine = os.uname().machine
    other.write_bytes(rewritten(reports["aten"].path.read_bytes(), elsewhere))
    if machine == "x86_64":
        with pytest.raises(PocketNetError, match="made for pdp_11; this machine is x86_64"):
            load_package(other)


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    generator = np.random.default_rng(2)
    coarse = generator.integers(0, 256, (5, 14, 14, 3), dtype=np.uint8)
    return torch.from_numpy(np.stack([cv2.resize(image, (112, 112)) for image in coarse]))


@pytest.mark.slow
@pytest.mark.parametrize(("kernels", "input", "color"), KINDS)
def test_embeddings(
    model: PocketNet, reports: dict[str, ExportReport], pixels: Tensor, kernels: str, input: str, color: str
) -> None:
    report = reports[kernels]
    assert report.error < 1e-4
    assert report.size == report.path.stat().st_size
    normalized = model.input_spec.normalize(pixels, color=color)
    with torch.no_grad():
        expected = model(normalized)
    run = load_package(report.path)
    images = pixels if input == "uint8" else normalized
    for size in (5, 1, 2):
        assert relative_error(run(images[:size]), expected[:size]) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["fused", "aten"])
def test_the_cpp_host_agrees(
    model: PocketNet, reports: dict[str, ExportReport], pixels: Tensor, tmp_path: Path, kernels: str
) -> None:
    files = [tmp_path / f"{index}.ppm" for index in range(len(pixels))]
    for file, image in zip(files, pixels.numpy(), strict=True):
        assert cv2.imwrite(str(file), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    ops = ["--ops", library_path()] if kernels == "fused" else []
    command = [cpp_host(), reports[kernels].path, *files, *ops, "--repeat", 2, "--callers", 3]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["model"] == reports[kernels].metadata
    assert printed["callers_agree"] is True
    found = torch.tensor([entry["embedding"] for entry in printed["embeddings"]])
    run = load_package(reports[kernels].path)
    images = pixels.flip(-1) if kernels == "fused" else model.input_spec.normalize(pixels)
    assert relative_error(found, run(images)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["fused", "aten"])
def test_the_check_in_a_package(
    model: PocketNet, reports: dict[str, ExportReport], pixels: Tensor, tmp_path: Path, kernels: str
) -> None:
    def unit(crops: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return torch.nn.functional.normalize(
                model(model.input_spec.normalize(torch.from_numpy(crops)))
            ).numpy()

    path = reports[kernels].path
    check_content(carried(path), check_crop(), unit(check_crop()[None])[0])
    file = tmp_path / "0.png"
    file.write_bytes(encode_image(pixels[0].numpy(), ".png"))
    found = hosted(path, [file], operators=kernels == "fused")
    np.testing.assert_allclose(found["embeddings"], unit(pixels[:1].numpy()), atol=2e-5)
    assert (found["embeds_crops"], found["takes_photos"]) == (True, False)
    assert found["cosine"] > 1 - 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["fused", "aten"])
def test_metadata(model: PocketNet, reports: dict[str, ExportReport], kernels: str) -> None:
    facts = read_package_metadata(reports[kernels].path)
    assert facts == reports[kernels].metadata
    assert facts["format"] == "pocketnet_fast.aotinductor"
    assert facts["kernels"] == kernels
    assert facts["weights_sha256"] == weights_sha256(model)
    assert facts["device"] == "cpu"
    assert facts["torch"] == torch.__version__
    assert facts["architecture"] == os.uname().machine
    assert ("libpnf_ops.so" in facts["needs"]) == (kernels == "fused")


def test_what_is_refused(model: PocketNet, tmp_path: Path) -> None:
    target = tmp_path / "m.pt2"
    for options, message in (
        ({"kernels": "cuda"}, "kernels is 'cuda'; expected 'fused' or 'aten'"),
        ({"device": "tpu"}, "device is 'tpu'; expected 'cpu' or 'cuda'"),
        ({"precision": "int4"}, "precision is 'int4'; expected one of fp32, tf32, bf16, fp16"),
        ({"precision": "fp16"}, "is for the fused kernels on CUDA; those of the CPU have fp32 and bf16"),
        ({"precision": "bf16", "kernels": "aten", "device": "cuda"}, "'bf16' is for the fused kernels"),
    ):
        with pytest.raises(PocketNetError, match=message):
            export_aotinductor(model, target, **options)
    with pytest.raises(PocketNetError, match=r"m\.pt: AOTInductor packages are written as \.pt2"):
        export_aotinductor(model, tmp_path / "m.pt")
    with pytest.raises(PocketNetError, match="iresnet18 has no fused form"):
        export_aotinductor(pocketnet_fast.create_model("iresnet18"), target)
    with pytest.raises(PocketNetError, match="a Linear cannot be exported"):
        export_aotinductor(nn.Linear(3, 3), target)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_cuda_device(model: PocketNet, tmp_path: Path) -> None:
    with pytest.raises(PocketNetError, match="device is 'cuda', and torch finds no CUDA device"):
        export_aotinductor(model, tmp_path / "m.pt2", device="cuda")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_cuda_package(tmp_path: Path, pixels: Tensor, precision: str) -> None:
    model = randomize_(PocketNet(random_genotype(11), 16, 4, 128), 11)
    report = export_aotinductor(model, tmp_path / "m.pt2", input="uint8", device="cuda", precision=precision)
    expected = pocketnet_fast.compile(model, device="cuda", precision=precision)(pixels.cuda())
    assert torch.equal(load_package(report.path)(pixels.cuda()), expected)
    assert report.metadata["architecture"].startswith("sm_")


def test_other_files_are_no_packages(tmp_path: Path) -> None:
    other = tmp_path / "other.pt2"
    for content in (b"", b"PK\x03\x04 not a zip"):
        other.write_bytes(content)
        with pytest.raises(PocketNetError, match="not an AOTInductor package of pocketnet_fast"):
            load_package(other)
    with pytest.raises(PocketNetError, match="not an AOTInductor package"):
        read_package_metadata(tmp_path / "absent.pt2")
