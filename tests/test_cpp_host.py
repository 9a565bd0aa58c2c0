"""The C++ host: built against pip's LibTorch, fed image files, compared with Python."""

from __future__ import annotations

import copy
import json
import os
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from calibrations import calibration_of
from faces import png_of_size
from helpers import randomize_, relative_error
from native import cpp_host, tool

import pocketnet_fast
from pocketnet_fast.export.torchscript import export_torchscript
from pocketnet_fast.models.base import EmbeddingModel
from pocketnet_fast.models.calibration import Calibration
from pocketnet_fast.models.mobilefacenet import MobileFaceNet
from pocketnet_fast.models.pocketnet import PocketNet
from pocketnet_fast.models.weights import weights_sha256
from pocketnet_fast.ops.native import available_isas, library_path


@pytest.fixture(scope="session")
def host() -> Path:
    return cpp_host()


@pytest.fixture(scope="module")
def model() -> EmbeddingModel:
    return randomize_(pocketnet_fast.create_model("pocketnet_s128"), 0)


def crops() -> np.ndarray:
    generator = np.random.default_rng(4)
    coarse = generator.integers(0, 256, (4, 14, 14, 3), dtype=np.uint8)
    return np.stack([cv2.resize(c, (112, 112), interpolation=cv2.INTER_CUBIC) for c in coarse])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("crops")
    paths = [folder / name for name in ("a.png", "b.ppm", "c d.png", "e.jpg")]
    for path, crop in zip(paths, crops(), strict=True):
        assert cv2.imwrite(str(path), cv2.cvtColor(crop, cv2.COLOR_RGB2BGR))
    return paths


def run(host: Path, *arguments: object, isa: str = "") -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ.get("PATH", ""), "PNF_FORCE_ISA": isa}
    command = [str(host), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def check_refused(done: subprocess.CompletedProcess[str], code: int, message: str) -> None:
    """Nothing was printed but why: in one line, with the usage where the command was wrong."""
    assert done.returncode == code, (done.args, done.stderr)
    assert message in done.stderr
    assert done.stdout == ""
    assert code == 2 or len(done.stderr.splitlines()) == 1


def test_help(host: Path) -> None:
    done = run(host, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(text in done.stdout for text in ("Usage: cpp_host", "--far", "--max-pixels", "--crops", "20"))


def test_a_name_that_is_no_text(tmp_path: Path, host: Path, files: list[Path], model: EmbeddingModel) -> None:
    """File names are bytes; what is printed is JSON all the same."""
    path = export_torchscript(model, tmp_path / "m.pt", input="uint8").path
    name = os.fsencode(tmp_path) + b'/\xe9 "quoted".png'
    Path(os.fsdecode(name)).write_bytes(files[0].read_bytes())
    done = subprocess.run([host, path, name, "--repeat", "1"], capture_output=True, check=True)
    (entry,) = json.loads(done.stdout.decode())["embeddings"]
    assert entry["file"] == f'{tmp_path}/\N{REPLACEMENT CHARACTER} "quoted".png'


@pytest.mark.slow
@pytest.mark.parametrize("input", ["float", "uint8"])
@pytest.mark.parametrize("kernels", ["fused", "aten"])
def test_embeddings_equal_pythons(
    tmp_path: Path, host: Path, model: EmbeddingModel, files: list[Path], kernels: str, input: str
) -> None:
    path = export_torchscript(model, tmp_path / "m.pt", kernels=kernels, input=input).path
    done = run(host, path, *files, "--repeat", 2)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    pixels = torch.from_numpy(np.stack([cv2.cvtColor(cv2.imread(str(f)), cv2.COLOR_BGR2RGB) for f in files]))
    loaded = torch.jit.load(path)
    expected = loaded(pixels if input == "uint8" else model.input_spec.normalize(pixels))
    found = torch.tensor([entry["embedding"] for entry in printed["embeddings"]])
    assert [entry["file"] for entry in printed["embeddings"]] == [str(f) for f in files]
    # The last file is a JPEG, which two decoders may read one level apart.
    assert relative_error(found[:3], expected[:3]) < (1e-6 if kernels == "fused" else 1e-4)
    assert relative_error(found[3], expected[3]) < 5e-2
    unit = torch.nn.functional.normalize(found)
    assert torch.allclose(torch.tensor(printed["similarity"]), unit @ unit.T, atol=1e-5)
    assert printed["model"]["kernels"] == kernels
    assert printed["milliseconds"] > 0


def test_float_input_is_normalised_as_the_file_says(tmp_path: Path, host: Path, files: list[Path]) -> None:
    network = randomize_(MobileFaceNet(), 1)
    path = export_torchscript(network, tmp_path / "m.pt", kernels="aten").path
    done = run(host, path, files[0], "--repeat", 1)
    assert done.returncode == 0, done.stderr
    found = torch.tensor(json.loads(done.stdout)["embeddings"][0]["embedding"])
    with torch.no_grad():
        expected = network(network.input_spec.normalize(torch.from_numpy(crops()[:1])))[0]
    assert relative_error(found, expected) < 1e-4


@pytest.mark.parametrize("isa", available_isas())
def test_isa_is_chosen_without_python(tmp_path: Path, host: Path, files: list[Path], isa: str) -> None:
    model = randomize_(PocketNet(pocketnet_fast.create_model("pocketnet_s128").genotype, 4, 4, 16), 0)
    path = export_torchscript(model, tmp_path / "m.pt", input="uint8").path
    assert run(host, path, files[0], "--repeat", 1, isa=isa).returncode == 0
    refused = run(host, path, files[0], "--repeat", 1, isa="avx1024")
    assert refused.returncode == 1
    assert "instruction set 'avx1024' is not available" in refused.stderr


def test_many_threads_on_one_module(
    tmp_path: Path, host: Path, files: list[Path], model: EmbeddingModel
) -> None:
    path = export_torchscript(model, tmp_path / "m.pt", input="uint8").path
    done = run(host, path, *files, "--repeat", 1, "--callers", 8, "--threads", 2)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["callers_agree"] is True


def test_bad_input(tmp_path: Path, host: Path, files: list[Path], model: EmbeddingModel) -> None:
    path = export_torchscript(model, tmp_path / "m.pt").path
    small = tmp_path / "small.png"
    cv2.imwrite(str(small), np.zeros((20, 30, 3), np.uint8))
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(files[3].read_bytes()[:900])
    text = tmp_path / "text.png"
    text.write_text("no image")
    huge = tmp_path / "huge.png"
    huge.write_bytes(png_of_size(60000, 60000))
    plain = tmp_path / "plain.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), plain)
    for arguments, code, message in (
        ((), 2, "MODEL is required"),
        ((), 2, "Usage: cpp_host"),
        ((path,), 2, "IMAGE, or --crops, is required"),
        (
            (path, files[0], "--repeat", "many"),
            2,
            "--repeat: must be a whole number of at least 1, got 'many'",
        ),
        ((path, files[0], "--frobnicate", 1), 2, "not expected: --frobnicate"),
        ((path, files[0], "--frobnicate"), 2, "not expected: --frobnicate"),
        ((path, files[0], "--repeat"), 2, "--repeat: 1 required"),
        ((path, files[0], "--max-pixels", "many"), 2, "--max-pixels: must be a whole number"),
        ((path, files[0], "--threads", 0), 2, "--threads: must be a whole number of at least 1, got '0'"),
        ((path, files[0], "--max-pixels", 12543), 1, "a.png: has 112x112 pixels; at most 12543 are read"),
        ((path, files[0], "--max-bytes", 1000), 1, "bytes; at most 1000 are read"),
        ((tmp_path / "none.pt", files[0]), 1, "none.pt: cannot be opened"),
        ((text, files[0]), 1, "text.png: is no TorchScript file"),
        ((plain, files[0]), 1, "plain.pt: was not exported by pocketnet_fast"),
        ((path, tmp_path / "none.png"), 1, "none.png: cannot be opened"),
        ((path, small), 1, "small.png: is 30x20; an aligned crop of 112x112 is needed"),
        ((path, cut), 1, "cut.jpg: is damaged: the JPEG ends inside"),
        ((path, huge), 1, "huge.png: has 60000x60000 pixels; at most 50000000 are read"),
        ((path, tmp_path), 1, f"{tmp_path}: is a folder, not an image file"),
        ((path, text), 1, "text.png: is a text, not an image; expected "),
        ((path, files[0], "--ops", tmp_path / "none.so"), 1, "none.so is no file"),
        ((path, files[0], "--ops", text), 1, "cannot load the operators: "),
    ):
        check_refused(run(host, *arguments), code, message)


def test_the_library_in_the_current_folder(
    tmp_path: Path, host: Path, files: list[Path], model: EmbeddingModel
) -> None:
    path = export_torchscript(model, tmp_path / "m.pt", input="uint8").path
    (tmp_path / "libpnf_ops.so").symlink_to(library_path())
    done = subprocess.run(
        [host, path, files[0], "--repeat", "1", "--ops", "libpnf_ops.so"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr


def test_a_file_whose_library_is_not_loaded(
    tmp_path: Path, host: Path, files: list[Path], model: EmbeddingModel
) -> None:
    path = export_torchscript(model, tmp_path / "m.pt").path
    other = Path(torch.__file__).parent / "lib" / "libtorch.so"
    done = run(host, path, files[0], "--ops", other)
    assert done.returncode == 1
    assert done.stderr == (
        f"cpp_host: {path}: calls the fused kernels, needs libpnf_ops.so of pocketnet_fast; "
        "name the library with --ops\n"
    )


def test_library_names_no_python() -> None:
    needed = subprocess.run(
        [tool("objdump"), "-p", str(library_path())], capture_output=True, text=True, check=True
    ).stdout
    libraries = [line.split()[1] for line in needed.splitlines() if "NEEDED" in line]
    assert "libtorch_cpu.so" in libraries
    assert not [name for name in libraries if "python" in name]
    assert "RUNPATH" not in needed


def calibrated(model: EmbeddingModel, threshold: float, flip: bool) -> EmbeddingModel:
    network = copy.deepcopy(model)
    network.calibration = calibration_of(
        weights_sha256(model),
        {1e-3: -1.0, 1e-4: threshold, 1e-5: 2.0},
        flip=flip,
        tar=None,
        dataset='odd "flip": true {} "far": 0.5, "threshold": 0.5',
    )
    return network


@pytest.mark.slow
@pytest.mark.parametrize("input", ["float", "uint8"])
@pytest.mark.parametrize("flip", [False, True])
def test_decisions_by_the_files_threshold(
    tmp_path: Path, host: Path, model: EmbeddingModel, files: list[Path], input: str, flip: bool
) -> None:
    options = {"input": input, "color": "bgr" if input == "uint8" else "rgb"}
    plain = export_torchscript(model, tmp_path / "plain.pt", **options).path
    assert json.loads(run(host, plain, *files[:3], "--repeat", 1).stdout)["decisions"] is None

    pixels = torch.from_numpy(crops()[:3])
    normal = model.input_spec.normalize(pixels)
    with torch.no_grad():
        embedding = model(normal) + (model(normal.flip(3)) if flip else 0)
    unit = torch.nn.functional.normalize(embedding)
    expected = [float(unit[a] @ unit[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
    threshold = sorted(expected)[1] - 1e-4  # two of three are above
    path = export_torchscript(calibrated(model, threshold, flip), tmp_path / "m.pt", **options).path
    done = run(host, path, *files[:3], "--repeat", 1)
    assert done.returncode == 0, done.stderr
    decisions = json.loads(done.stdout)["decisions"]
    assert decisions["threshold"] == pytest.approx(threshold, abs=1e-7)
    assert (decisions["far"], decisions["far_source"]) == (1e-4, "calibration")
    assert decisions["flip"] is flip
    assert ("mirror images added" in decisions["cosines_of"]) is flip
    pairs = decisions["pairs"]
    assert [(pair["a"], pair["b"]) for pair in pairs] == [(0, 1), (0, 2), (1, 2)]
    assert [pair["cosine"] for pair in pairs] == pytest.approx(expected, abs=3e-5)
    assert [pair["same"] for pair in pairs] == [cosine >= threshold for cosine in expected]
    assert sum(pair["same"] for pair in pairs) == 2
    for far, limit, accepted in (("1e-3", -1, 3), ("0.0001", threshold, 2), ("1e-5", 2, 0)):
        asked = json.loads(run(host, path, *files[:3], "--repeat", 1, "--far", far).stdout)["decisions"]
        assert (asked["far"], asked["far_source"]) == (float(far), "option")
        assert asked["threshold"] == pytest.approx(limit, abs=1e-7)
        assert [pair["cosine"] for pair in asked["pairs"]] == pytest.approx(expected, abs=3e-5)
        assert sum(pair["same"] for pair in asked["pairs"]) == accepted


def test_rates_that_the_file_does_not_carry(
    tmp_path: Path, host: Path, model: EmbeddingModel, files: list[Path]
) -> None:
    network = calibrated(model, 0.5, flip=True)
    path = export_torchscript(network, tmp_path / "m.pt", input="uint8").path
    plain = export_torchscript(model, tmp_path / "plain.pt", input="uint8").path
    for arguments, code, message in (
        ((path, files[0], "--far", 1e-6), 1, "m.pt: the file carries no threshold for FAR 1e-06, only for "),
        ((path, files[0], "--far", 1e-6), 1, "only for 0.001, 0.0001, 1e-05"),
        ((plain, files[0], "--far", 1e-4), 1, "plain.pt: carries no threshold that --far could choose"),
        ((path, files[0], "--far", 1), 2, "--far: must be a rate above 0 and below 1, got '1'"),
        ((path, files[0], "--far", "low"), 2, "--far: must be a rate above 0 and below 1, got 'low'"),
        ((path, files[0], "--far"), 2, "--far: 1 required"),
        ((path, "--crops", files[0], "--output", "x.npy", "--far", 0.1), 2, "--far excludes --crops"),
    ):
        check_refused(run(host, *arguments), code, message)


def test_a_file_of_one_threshold(
    tmp_path: Path, host: Path, model: EmbeddingModel, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As files were written before they carried several."""
    single = {
        "threshold": -0.75,
        "far": 3e-3,
        "measured_far": 1e-3,
        "measured_tar": None,
        "impostor_pairs": 1000,
        "genuine_pairs": 0,
        "dataset": "lfw",
        "flip": True,
        "weights_sha256": weights_sha256(model),
    }
    network = calibrated(model, 0.5, flip=True)
    monkeypatch.setattr(Calibration, "as_dict", lambda self: single)
    path = export_torchscript(network, tmp_path / "m.pt", input="uint8").path
    for options in ((), ("--far", 3e-3)):
        done = run(host, path, *files[:2], "--repeat", 1, *options)
        assert done.returncode == 0, done.stderr
        decisions = json.loads(done.stdout)["decisions"]
        assert (decisions["threshold"], decisions["far"], decisions["flip"]) == (-0.75, 3e-3, True)
    assert "only for 0.003" in run(host, path, files[0], "--far", 1e-4).stderr


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["fused", "aten"])
@pytest.mark.parametrize("flip", [[], ["--flip"]])
def test_a_file_of_crops(
    tmp_path: Path, host: Path, model: EmbeddingModel, kernels: str, flip: list[str]
) -> None:
    path = export_torchscript(model, tmp_path / "m.pt", kernels=kernels, input="uint8").path
    np.save(tmp_path / "crops.npy", crops())
    output = tmp_path / "embeddings.npy"
    done = run(host, path, "--crops", tmp_path / "crops.npy", "--output", output, "--batch", 3, *flip)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["crops"], report["flip"], report["model"]["kernels"]) == (4, bool(flip), kernels)
    found = np.load(output, allow_pickle=False)
    assert (found.dtype, found.shape) == (np.float32, (4, 128))
    pixels = torch.from_numpy(crops())
    loaded = torch.jit.load(path)
    expected = loaded(pixels) + (loaded(pixels.flip(2)) if flip else 0)
    assert relative_error(torch.from_numpy(found), expected) < (1e-6 if kernels == "fused" else 1e-4)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["crops.npy", "embeddings.npy", "m.pt"]


@pytest.mark.slow
def test_bad_files_of_crops(tmp_path: Path, host: Path, model: EmbeddingModel, files: list[Path]) -> None:
    path = export_torchscript(model, tmp_path / "m.pt", input="uint8").path
    good = tmp_path / "good.npy"
    np.save(good, crops())
    contents = {
        "float.npy": crops().astype(np.float32),
        "planar.npy": np.ascontiguousarray(crops().transpose(0, 3, 1, 2)),
        "fortran.npy": np.asfortranarray(crops()),
        "empty.npy": crops()[:0],
    }
    for name, content in contents.items():
        np.save(tmp_path / name, content)
    (tmp_path / "cut.npy").write_bytes(good.read_bytes()[:-1])
    (tmp_path / "header.npy").write_bytes(good.read_bytes()[:20])
    (tmp_path / "text.npy").write_text("no array at all")
    output = tmp_path / "out.npy"
    output.write_bytes(b"old")
    for name, message in (
        ("float.npy", "float.npy: expected uint8 crops of shape (N, 112, 112, 3), found {'descr': '<f4'"),
        ("planar.npy", "planar.npy: expected uint8 crops"),
        ("fortran.npy", "fortran.npy: expected uint8 crops"),
        ("empty.npy", "empty.npy: holds no crop"),
        ("cut.npy", "cut.npy: does not hold the 4 crops"),
        ("header.npy", "header.npy: ends in its .npy header"),
        ("text.npy", "text.npy: is no .npy file"),
        ("none.npy", "none.npy: cannot be opened"),
    ):
        done = run(host, path, "--crops", tmp_path / name, "--output", output)
        assert done.returncode == 1, (name, done.stderr)
        assert message in done.stderr
        assert done.stdout == ""
    nowhere = run(host, path, "--crops", good, "--output", tmp_path / "no" / "out.npy")
    assert nowhere.returncode == 1
    assert "no/out.npy: cannot be written" in nowhere.stderr
    assert output.read_bytes() == b"old"
    for arguments, message in (
        ((path, "--crops", good), "--crops requires --output"),
        ((path, "--output", output), "--output requires --crops"),
        ((path, files[0], "--flip"), "--flip requires --crops"),
        ((path, files[0], "--crops", good, "--output", output), "IMAGE excludes --crops"),
        ((path, "--crops", good, "--output", output, "--batch", 0), "--batch: must be a whole number"),
    ):
        done = run(host, *arguments)
        assert done.returncode == 2
        assert message in done.stderr
