"""Analyzers as files: TorchScript, AOTInductor and the C++ host on photos, against ``FaceAnalyzer``."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from helpers import at_once
from hosting import carried, check_content, hosted
from native import cpp_host
from torch import Tensor
from typer.testing import CliRunner, Result

import pocketnet_fast
from pocketnet_fast import FaceAnalyzer
from pocketnet_fast.cli.main import app
from pocketnet_fast.data.images import ImageArray, encode_image
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.export import export_aotinductor, export_torchscript, load_exported, load_package
from pocketnet_fast.export.check import check_crop, check_photo
from pocketnet_fast.export.photos import check_scene
from pocketnet_fast.export.torchscript_file import read_metadata
from pocketnet_fast.faces import Face
from pocketnet_fast.ops.native import available_isas, forced_isa


@pytest.fixture(scope="module")
def script(analyzer: FaceAnalyzer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_torchscript(analyzer, tmp_path_factory.mktemp("script") / "faces.pt").path


@pytest.fixture(scope="module")
def package(analyzer: FaceAnalyzer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_aotinductor(analyzer, tmp_path_factory.mktemp("package") / "faces.pt2").path


def pictures() -> dict[str, ImageArray]:
    scene = check_scene()
    return {
        "two": scene,
        "upside down": np.ascontiguousarray(np.rot90(scene, 2)),
        "small": np.asarray(cv2.resize(scene, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA)),
        "large": np.asarray(cv2.resize(scene, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)),
        "odd": np.ascontiguousarray(scene[7:-8, 3:-6]),
        "one pixel": scene[:1, :1].copy(),
        "empty": np.full((90, 120, 3), 7, np.uint8),
    }


def check(answer: tuple[Tensor, ...], faces: list[Face], error: float = 1e-5) -> None:
    boxes, landmarks, scores, embeddings = answer
    expected = [face for face in faces if face.doubt is None]
    assert [tensor.dtype for tensor in answer] == [torch.float32] * 4
    assert boxes.shape == (len(expected), 4)
    assert landmarks.shape == (len(expected), 5, 2)
    assert scores.shape == (len(expected),)
    assert embeddings.shape == (len(expected), 128)
    for place, face in enumerate(expected):
        assert face.embedding is not None
        np.testing.assert_allclose(boxes[place], face.box, atol=1e-3)
        np.testing.assert_allclose(landmarks[place], face.landmarks, atol=1e-3)
        assert float(scores[place]) == pytest.approx(face.score, abs=1e-6)
        np.testing.assert_allclose(embeddings[place], face.embedding, atol=error)


@pytest.mark.parametrize("name", pictures())
def test_torchscript(script: Path, analyzer: FaceAnalyzer, name: str) -> None:
    picture = pictures()[name]
    check(torch.jit.load(script)(torch.from_numpy(picture)), analyzer.analyze(picture))


@pytest.mark.slow
@pytest.mark.parametrize("name", pictures())
def test_aotinductor(package: Path, analyzer: FaceAnalyzer, name: str) -> None:
    picture = pictures()[name]
    check(load_package(package)(torch.from_numpy(picture)), analyzer.analyze(picture))


@pytest.mark.parametrize("isa", available_isas())
def test_every_instruction_set(script: Path, analyzer: FaceAnalyzer, isa: str) -> None:
    picture = check_scene()
    with forced_isa(isa):
        check(torch.jit.load(script)(torch.from_numpy(picture)), analyzer.analyze(picture))


def test_options_are_kept(tmp_path: Path) -> None:
    scene = check_scene()
    options: dict[str, Any] = {"precision": "bf16", "flip": False, "upright": False, "max_faces": 1}
    analyzer = FaceAnalyzer(**options)
    report = export_torchscript(analyzer, tmp_path / "faces.pt", color="bgr")
    loaded = torch.jit.load(report.path)
    check(loaded(torch.from_numpy(scene).flip(-1)), analyzer.analyze(scene), error=1e-2)
    upside_down = np.ascontiguousarray(np.rot90(scene, 2))
    check(loaded(torch.from_numpy(upside_down).flip(-1)), analyzer.analyze(upside_down), error=1e-2)
    stated = read_metadata(report.path)
    assert stated["task"] == "faces"
    assert stated["input"] == {"dtype": "uint8", "shape": ["H", "W", 3], "color": "bgr"}
    assert stated["outputs"] == ["boxes", "landmarks", "scores", "embeddings"]
    assert stated["precision"] == "bf16"
    assert (stated["adds_mirror_image"], stated["upright"], stated["max_faces"]) == (False, False, 1)
    assert stated["calibration"] is not None


def test_a_network_without_fused_form(tmp_path: Path) -> None:
    model = pocketnet_fast.create_model("iresnet18")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.05, 0.05, generator=torch.Generator().manual_seed(parameter.numel()))
    analyzer = FaceAnalyzer(model=model)
    with pytest.raises(PocketNetError, match="no fused form"):
        export_torchscript(analyzer, tmp_path / "faces.pt")
    report = export_torchscript(analyzer, tmp_path / "faces.pt", kernels="aten")
    boxes, _, _, embeddings = torch.jit.load(report.path)(torch.from_numpy(check_scene()))
    assert len(boxes) == len(embeddings) == 2
    for face, embedding in zip(analyzer.analyze(check_scene()), embeddings, strict=True):
        np.testing.assert_allclose(embedding, face.embedding, atol=1e-4)


def test_several_callers(script: Path, analyzer: FaceAnalyzer) -> None:
    loaded, scene = torch.jit.load(script), torch.from_numpy(check_scene())
    answers: list[tuple[Tensor, ...]] = []
    at_once(lambda _: answers.append(loaded(scene)), 4)
    expected = analyzer.analyze(check_scene())
    assert len(answers) == 4
    for answer in answers:
        check(answer, expected)


@pytest.mark.parametrize(
    "wrong",
    [
        torch.zeros(8, 8, 3),
        torch.zeros(1, 8, 8, 3, dtype=torch.uint8),
        torch.zeros(8, 8, 4, dtype=torch.uint8),
        torch.zeros(0, 8, 3, dtype=torch.uint8),
        torch.zeros(8, 8, dtype=torch.uint8),
    ],
    ids=lambda tensor: f"{tensor.dtype} {tuple(tensor.shape)}",
)
def test_refused_photos(script: Path, package: Path, wrong: Tensor) -> None:
    with pytest.raises(RuntimeError, match=r"a photo must be uint8 \[H, W, 3\], got"):
        torch.jit.load(script)(wrong)
    # As a program without this package calls it.
    with pytest.raises(RuntimeError):
        torch._inductor.aoti_load_package(str(package))(wrong)
    if wrong.numel():
        with pytest.raises(PocketNetError, match=r"the file takes uint8 \(H, W, 3\) on cpu"):
            load_package(package)(wrong)


def test_strides(script: Path, package: Path) -> None:
    scene = torch.from_numpy(check_scene())
    wide = torch.zeros(300, 960, 4, dtype=torch.uint8)
    wide[:, ::2, :3] = scene
    for run in (torch.jit.load(script), torch._inductor.aoti_load_package(str(package))):
        for found, expected in zip(run(wide[:, ::2, :3]), run(scene), strict=True):
            assert torch.equal(found, expected)


class TestRefusals:
    def test_options_of_networks(self, analyzer: FaceAnalyzer, tmp_path: Path) -> None:
        for options, message in (
            ({"precision": "bf16"}, "the analyzer's own is 'fp32'"),
            ({"color": "grey"}, "color is 'grey'"),
            ({"kernels": "best"}, "kernels is 'best'"),
            ({"input": "bytes"}, "takes photos"),
        ):
            with pytest.raises(PocketNetError, match=message):
                export_torchscript(analyzer, tmp_path / "faces.pt", **options)  # type: ignore[arg-type]
        with pytest.raises(PocketNetError, match="exported for 'cpu'"):
            export_aotinductor(analyzer, tmp_path / "faces.pt2", device="cuda")
        with pytest.raises(PocketNetError, match=r"as TorchScript \(.pt\)"):
            export_aotinductor(analyzer, tmp_path / "faces.pt2", kernels="aten")
        assert not list(tmp_path.iterdir())

    def test_as_a_network(self, script: Path) -> None:
        with pytest.raises(PocketNetError, match="is no network that embeds crops"):
            load_exported(script)


@pytest.fixture(scope="session")
def host() -> Path:
    return cpp_host()


def run_host(host: Path, *arguments: object) -> dict[str, Any]:
    command = [str(host), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


def check_printed(printed: dict[str, Any], paths: list[Path], analyzer: FaceAnalyzer) -> None:
    assert [photo["file"] for photo in printed["photos"]] == [str(path) for path in paths]
    for photo, path in zip(printed["photos"], paths, strict=True):
        expected = [face for face in analyzer.analyze(path) if face.doubt is None]
        assert len(photo["faces"]) == len(expected)
        for found, face in zip(photo["faces"], expected, strict=True):
            np.testing.assert_allclose(found["box"], face.box, atol=1e-3)
            np.testing.assert_allclose(found["landmarks"], face.landmarks, atol=1e-3)
            np.testing.assert_allclose(found["embedding"], face.embedding, atol=1e-5)
            assert found["turn"] == face.turn
            assert found["score"] == pytest.approx(face.score, abs=1e-6)


@pytest.mark.parametrize("kind", ["script", "package"])
def test_the_host_on_photos(
    kind: str, script: Path, package: Path, host: Path, analyzer: FaceAnalyzer, tmp_path: Path
) -> None:
    paths = [tmp_path / name for name in ("scene.png", "turned.png", "none.png", "scene.jpg")]
    scene = check_scene()
    for path, picture in zip(
        paths, (scene, np.rot90(scene), np.zeros((40, 60, 3), np.uint8), scene), strict=True
    ):
        path.write_bytes(encode_image(np.ascontiguousarray(picture), path.suffix))
    printed = run_host(host, script if kind == "script" else package, *paths)
    check_printed(printed, paths, analyzer)
    decisions = printed["decisions"]
    assert [(pair["a"], pair["b"], pair["same"]) for pair in decisions["pairs"]] == [
        (0, 1, True),
        (0, 3, True),
        (1, 3, True),
    ]
    assert analyzer.calibration is not None
    assert decisions["threshold"] == pytest.approx(analyzer.calibration.threshold)


def test_the_check_in_a_package(package: Path, analyzer: FaceAnalyzer, tmp_path: Path) -> None:
    (face,) = analyzer.analyze(check_photo())
    assert face.embedding is not None
    check_content(carried(package), check_photo(), face.embedding)
    (tmp_path / "crop.png").write_bytes(encode_image(check_crop(), ".png"))
    found = hosted(package, [tmp_path / "crop.png"])
    assert (found["takes_photos"], found["embeds_crops"]) == (True, False)
    assert "its embedder cannot be called alone" in found["embeddings"]["error"]
    assert found["cosine"] > 1 - 1e-5


def test_the_host_decides_by_calibrated_embeddings_only(host: Path, tmp_path: Path) -> None:
    (tmp_path / "scene.png").write_bytes(encode_image(check_scene(), ".png"))
    report = export_torchscript(FaceAnalyzer(flip=False), tmp_path / "faces.pt")
    printed = run_host(host, report.path, tmp_path / "scene.png", tmp_path / "scene.png")
    assert len(printed["photos"][0]["faces"]) == 2
    assert printed["decisions"] is None


def test_the_host_on_real_photos(script: Path, host: Path, analyzer: FaceAnalyzer, shared_dir: Path) -> None:
    paths = sorted((shared_dir / "data" / "photos").glob("*.jpg"))[:12]
    if not paths:
        pytest.skip(f"no photos in {shared_dir / 'data' / 'photos'}")
    check_printed(run_host(host, script, *paths), paths, analyzer)


def test_command(tmp_path: Path) -> None:
    def command(*arguments: object) -> Result:
        return CliRunner().invoke(app, ["export", *map(str, arguments)])

    done = command("--photos", "--max-faces", 1, "--json", "-o", tmp_path / "faces.pt")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["metadata"]["max_faces"] == 1
    for arguments, message in (
        (("--no-flip", "-o", tmp_path / "m.pt"), "--no-flip belongs to --photos"),
        (("--photos", "-o", tmp_path / "m.onnx"), "--photos is for the formats"),
    ):
        refused = command(*arguments)
        assert isinstance(refused.exception, PocketNetError)
        assert message in str(refused.exception)
