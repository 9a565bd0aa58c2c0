"""Model repositories for the Triton Inference Server: their configuration by its schema, and what they hold.

The server itself is no part of the tests. Its PyTorch backend is stood in for by a process that has the
library preloaded, as the server has, and calls the file with the tensors that the configuration states.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import refused, runner
from helpers import random_genotype, randomize_

import pocketnet_fast
from pocketnet_fast import FaceAnalyzer
from pocketnet_fast.data.images import encode_image
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.export import export_triton
from pocketnet_fast.export.photos import check_scene
from pocketnet_fast.export.torchscript_file import read_metadata
from pocketnet_fast.models.pocketnet import PocketNet

AS_BACKEND = """
import json, sys, torch
path, *files = sys.argv[1:]
module = torch.jit.load(path)
for file in files:
    out = module(torch.load(file))
    out = [out] if torch.is_tensor(out) else list(out)
    torch.save(out, file)
print(json.dumps([name for name in sys.modules if name.startswith("pocketnet")]))
"""


@pytest.fixture(scope="module")
def model() -> PocketNet:
    return randomize_(PocketNet(random_genotype(11), 8, 4, 32), 11)


def config(folder: Path) -> Any:
    """The configuration, read by the schema that the server publishes."""
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    from google.protobuf import text_format

    return text_format.Parse((folder / "config.pbtxt").read_text(), schema.ModelConfig())


def kind(tensor: Any) -> str:
    return (
        type(tensor).DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[tensor.data_type].name
    )


def as_backend(folder: Path, tmp_path: Path, *inputs: torch.Tensor, preload: bool = True) -> list[list[Any]]:
    """What the file returns in a process with its library preloaded and no other part of the package."""
    files = [tmp_path / f"input{number}" for number in range(len(inputs))]
    for file, tensor in zip(files, inputs, strict=True):
        torch.save(tensor, file)
    environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    if preload:
        environment["LD_LIBRARY_PATH"] = str(Path(torch.__file__).parent / "lib")
        environment["LD_PRELOAD"] = str(folder / "libpnf_ops.so")
    command = [sys.executable, "-c", AS_BACKEND, folder / "1" / "model.pt", *files]
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=False, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
    return [torch.load(file) for file in files]


@pytest.mark.slow(seconds=6)
def test_crops(tmp_path: Path, model: PocketNet) -> None:
    report = export_triton(model, tmp_path / "repository", max_batch=8, delay_us=250)
    folder = tmp_path / "repository" / "pocketnet"
    assert report.path == folder
    there = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert there == ["1/model.pt", "config.pbtxt", "libpnf_ops.so"]
    assert report.size == sum((folder / name).stat().st_size for name in there)
    read = config(folder)
    assert (read.name, read.backend, read.platform) == ("pocketnet", "pytorch", "pytorch_libtorch")
    assert read.default_model_filename == "model.pt"
    assert read.max_batch_size == 8
    assert read.dynamic_batching.max_queue_delay_microseconds == 250
    (taken,), (given,) = read.input, read.output
    assert (taken.name, kind(taken), list(taken.dims)) == ("INPUT__0", "TYPE_UINT8", [112, 112, 3])
    assert (given.name, kind(given), list(given.dims)) == ("OUTPUT__0", "TYPE_FP32", [32])
    (group,) = read.instance_group
    assert group.count == 1 and group.kind == type(group).KIND_CPU
    assert "INTRA_OP_THREAD_COUNT" not in read.parameters
    # As many crops as a batch has at most, as one request and as the warm-up have.
    (warm,) = read.model_warmup
    stated = warm.inputs["INPUT__0"]
    assert stated.zero_data and list(stated.dims) == list(taken.dims)
    batches = [torch.zeros(warm.batch_size, *stated.dims, dtype=torch.uint8)]
    batches += [torch.randint(0, 256, (read.max_batch_size, *taken.dims), dtype=torch.uint8)]
    for batch, (embeddings,) in zip(batches, as_backend(folder, tmp_path, *batches), strict=True):
        assert embeddings.dtype == torch.float32 and embeddings.shape == (len(batch), *given.dims)
        expected = pocketnet_fast.compile(model)(batch)
        assert torch.allclose(embeddings, expected, atol=1e-4)


@pytest.mark.slow(seconds=6)
def test_photos(tmp_path: Path) -> None:
    analyzer = FaceAnalyzer()
    folder = export_triton(analyzer, tmp_path).path
    assert folder.name == "pocketnet_s128_faces"
    read = config(folder)
    assert read.max_batch_size == 0
    assert not read.HasField("dynamic_batching"), "photos differ in size, and form no batch"
    (taken,) = read.input
    assert (taken.name, kind(taken), list(taken.dims)) == ("INPUT__0", "TYPE_UINT8", [-1, -1, 3])
    (warm,) = read.model_warmup
    photos = [torch.from_numpy(check_scene()), torch.zeros(*warm.inputs["INPUT__0"].dims, dtype=torch.uint8)]
    for photo, faces in zip(photos, (2, 0), strict=True):
        (outputs,) = as_backend(folder, tmp_path, photo)
        assert len(outputs) == len(read.output)
        for place, (output, stated) in enumerate(zip(outputs, read.output, strict=True)):
            assert (stated.name, kind(stated)) == (f"OUTPUT__{place}", "TYPE_FP32")
            assert output.dtype == torch.float32
            assert list(output.shape) == [faces if side == -1 else side for side in stated.dims]


@pytest.mark.slow
def test_aten_needs_no_library(tmp_path: Path, model: PocketNet) -> None:
    folder = export_triton(model, tmp_path, kernels="aten", instances=2).path
    assert not (folder / "libpnf_ops.so").exists()
    text = (folder / "config.pbtxt").read_text()
    assert "LD_PRELOAD" not in text
    read = config(folder)
    assert read.instance_group[0].count == 2
    assert read.parameters["INTRA_OP_THREAD_COUNT"].string_value == "1"
    ((embeddings,),) = as_backend(
        folder, tmp_path, torch.zeros(2, 112, 112, 3, dtype=torch.uint8), preload=False
    )
    assert embeddings.shape == (2, *read.output[0].dims)


def test_comment_says_how_the_library_is_preloaded(tmp_path: Path, model: PocketNet) -> None:
    folder = export_triton(model, tmp_path, color="bgr").path
    text = (folder / "config.pbtxt").read_text()
    assert f"LD_PRELOAD=$REPOSITORY/{folder.name}/libpnf_ops.so" in text
    assert "images: bgr" in text
    assert read_metadata(folder / "1" / "model.pt")["input"]["color"] == "bgr"


def test_is_replaced_as_a_whole(tmp_path: Path, model: PocketNet) -> None:
    first = (export_triton(model, tmp_path).path / "config.pbtxt").read_bytes()
    second = export_triton(model, tmp_path, max_batch=4).path
    assert (second / "config.pbtxt").read_bytes() != first
    assert sorted(path.name for path in second.iterdir()) == ["1", "config.pbtxt", "libpnf_ops.so"]


@pytest.mark.parametrize(
    "wrong", [{"max_batch": 0}, {"delay_us": -1}, {"instances": 0}, {"instances": True}, {"max_batch": 1.5}]
)
def test_numbers_out_of_range_are_refused(tmp_path: Path, model: PocketNet, wrong: dict[str, Any]) -> None:
    with pytest.raises(PocketNetError, match=f"{next(iter(wrong))} is .*expected a whole number from"):
        export_triton(model, tmp_path, **wrong)
    assert not any(tmp_path.iterdir())


def test_other_modules_and_folders_are_refused(tmp_path: Path, model: PocketNet) -> None:
    with pytest.raises(PocketNetError, match="a Linear cannot be exported"):
        export_triton(torch.nn.Linear(2, 2), tmp_path)
    assert not any(tmp_path.iterdir())
    file = tmp_path / "file"
    file.write_bytes(encode_image(check_scene(), ".png"))
    with pytest.raises(PocketNetError, match=r"cannot make the folder .*file/pocketnet/1: Not a directory"):
        export_triton(model, file)


@pytest.mark.slow(seconds=4)
def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    export = runner(monkeypatch, capsys, "export")
    done = export("--triton", tmp_path, "--json")
    assert done.code == 0, done.err
    assert done.json["path"] == str(tmp_path / "pocketnet_s128")
    assert config(tmp_path / "pocketnet_s128").output[0].dims == [128]
    assert refused(export("--triton", tmp_path, "-o", "m.pt"), "either a file", "--triton")
    assert refused(export(), "either a file", "--triton")
    assert refused(export("--triton", tmp_path, "--format", "onnx"), "--triton writes TorchScript")
    assert refused(export("--triton", tmp_path, "--device", "cuda"), "--device belongs to")
