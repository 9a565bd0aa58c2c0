"""The check that exported files carry, and what ``csrc/hosting`` makes of files and of crops."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from exported_forms import FORMS, small_network
from faces import crop
from hosting import carried, check_content, hosted
from torch import Tensor, nn

from pocketnet_fast import FaceAnalyzer
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.export.check import CHECK_FILE, check_crop, check_photo
from pocketnet_fast.export.exported import load_exported
from pocketnet_fast.export.source import METADATA_FILE
from pocketnet_fast.export.torchscript import export_torchscript
from pocketnet_fast.faces.pipeline import Embedder
from pocketnet_fast.models.pocketnet import PocketNet


@pytest.fixture(scope="module")
def model() -> PocketNet:
    return small_network()


@pytest.mark.parametrize(("kernels", "input", "color"), FORMS)
def test_crops(tmp_path: Path, model: PocketNet, kernels: str, input: str, color: str) -> None:
    path = export_torchscript(model, tmp_path / "m.pt", kernels=kernels, input=input, color=color).path
    expected = Embedder(model, engine="eager")(check_crop()[None])[0]
    check_content(carried(path), check_crop(), expected)
    # Of a file as torch gives it, too.
    extra = {CHECK_FILE: ""}
    torch.jit.load(path, _extra_files=extra)
    assert json.loads(extra[CHECK_FILE]) == carried(path)


def test_photos(tmp_path: Path, model: PocketNet) -> None:
    analyzer = FaceAnalyzer(model=model)
    (face,) = analyzer.analyze(check_photo())
    assert face.embedding is not None
    for color in ("rgb", "bgr"):
        path = export_torchscript(analyzer, tmp_path / "faces.pt", color=color).path
        check_content(carried(path), check_photo(), face.embedding)


def test_an_analyzer_that_finds_no_face(
    tmp_path: Path, model: PocketNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pocketnet_fast.export.check.check_crop", lambda: np.zeros((112, 112, 3), np.uint8))
    with pytest.raises(PocketNetError, match="finds 0 faces in the photo of the file's check"):
        export_torchscript(FaceAnalyzer(model=model), tmp_path / "faces.pt")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("crops")
    paths = [folder / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        assert cv2.imwrite(str(path), crop(number)[..., ::-1])
    return paths


def check_hosted(found: dict[str, Any], expected: np.ndarray) -> None:
    embeddings = np.array(found["embeddings"])
    np.testing.assert_allclose(
        embeddings, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=2e-5
    )
    assert found["none"] == [0, expected.shape[1]]
    assert found["wrong"] == {"error": "aligned crops are uint8 [N, 112, 112, 3] on the CPU"}
    assert found["cosine"] > 1 - 1e-5
    assert found["least_cosine"] == 0.999


@pytest.mark.slow
@pytest.mark.parametrize(("kernels", "input", "color"), FORMS)
def test_hosted_crops(
    tmp_path: Path, crops: list[Path], model: PocketNet, kernels: str, input: str, color: str
) -> None:
    path = export_torchscript(model, tmp_path / "m.pt", kernels=kernels, input=input, color=color).path
    found = hosted(path, crops, operators=kernels == "fused")
    check_hosted(found, Embedder(model, engine="eager")(np.stack([crop(number) for number in range(3)])))
    assert (found["takes_photos"], found["embeds_crops"], found["check"]) == (False, True, True)
    assert found["faces"] == {"error": "the network takes aligned crops, and finds no faces"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernels", "color", "flip"), [("fused", "rgb", True), ("fused", "bgr", False), ("aten", "bgr", True)]
)
def test_hosted_photos(
    tmp_path: Path, crops: list[Path], model: PocketNet, kernels: str, color: str, flip: bool
) -> None:
    analyzer = FaceAnalyzer(model=model, flip=flip)
    path = export_torchscript(analyzer, tmp_path / "faces.pt", kernels=kernels, color=color).path
    found = hosted(path, crops)
    check_hosted(found, analyzer.embedder(np.stack([crop(number) for number in range(3)])))
    assert (found["takes_photos"], found["embeds_crops"], found["check"]) == (True, True, True)
    assert found["forward"] == {"error": "the file takes photos, and finds their faces itself"}


class PhotoModuleOfBefore(nn.Module):
    """A module for photos as they were before they had ``embed``: it finds nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.embedder = nn.Sequential(nn.Flatten(), ToFloats(), nn.Linear(112 * 112 * 3, 32))

    def forward(self, photo: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        embeddings: Tensor = self.embedder(torch.zeros(0, 112, 112, 3, dtype=torch.uint8))
        none = torch.zeros(0)
        return none.view(0, 4), none.view(0, 5, 2), none, embeddings


class ToFloats(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.to(torch.float32)


def test_hosted_photo_files_of_before(tmp_path: Path, crops: list[Path], model: PocketNet) -> None:
    facts = export_torchscript(FaceAnalyzer(model=model), tmp_path / "faces.pt").metadata
    path = tmp_path / "before.pt"
    module = PhotoModuleOfBefore().eval()
    scripted = torch.jit.script(module)
    torch.jit.save(scripted, path, _extra_files={METADATA_FILE: json.dumps(facts)})
    found = hosted(path, crops)
    pixels = torch.from_numpy(np.stack([crop(number) for number in range(3)]))
    with torch.no_grad():
        expected = torch.nn.functional.normalize(module.embedder(pixels))
    np.testing.assert_allclose(found["embeddings"], expected, atol=2e-5)
    assert (found["embeds_crops"], found["check"], found["faces"]) == (True, False, 0)
    torch.jit.save(torch.jit.freeze(scripted), path, _extra_files={METADATA_FILE: json.dumps(facts)})
    found = hosted(path, crops)
    assert (found["embeds_crops"], found["faces"]) == (False, 0)
    assert "its embedder cannot be called alone" in found["embeddings"]["error"]


def changed(path: Path, target: Path, **records: str | None) -> Path:
    """A TorchScript file with another check or other metadata; None leaves the record out."""
    names = {"check": CHECK_FILE, "metadata": METADATA_FILE}
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content: bytes | str | None = old.read(name)
            for record, text in records.items():
                if name.endswith(f"/extra/{names[record]}"):
                    content = text
            if content is not None:
                new.writestr(name, content)
    return target


@pytest.mark.slow
def test_hosted_files_that_are_not_as_they_should_be(
    tmp_path: Path, crops: list[Path], model: PocketNet
) -> None:
    report = export_torchscript(model, tmp_path / "m.pt", input="uint8")
    other = tmp_path / "other.pt"

    def said(**records: str | None) -> dict[str, Any]:
        return hosted(changed(report.path, other, **records), crops)

    without = said(check=None)
    assert (without["check"], without["least_cosine"]) == (False, None)
    assert without["cosine"] == {"error": "the file carries no check of itself"}
    assert len(without["embeddings"]) == 3
    load_exported(other)

    check = carried(report.path)
    opposite = check | {"embedding": [-value for value in check["embedding"]]}
    assert said(check=json.dumps(opposite))["cosine"] == pytest.approx(-1, abs=1e-5)
    for change, message in (
        ({"embedding": [1.0]}, "the file's embeddings have 32 numbers, its check's 1"),
        ({"image": "R0lGODlh"}, "is a GIF image; expected "),
    ):
        assert message in said(check=json.dumps(check | change))["cosine"]["error"]
    for change, message in (
        ({"image": 7}, "its check does not state image, embedding and least_cosine as it should"),
        ({"image": "no base64!"}, "its check's picture is no base64"),
        ({"embedding": None}, "its check does not state image, embedding and least_cosine as it should"),
        ({"embedding": [1e300]}, "its check does not state image, embedding and least_cosine as it should"),
    ):
        assert said(check=json.dumps(check | change)) == {"error": f"{other}: is damaged: {message}"}

    facts = report.metadata
    for text, message in (
        ("{", "its metadata are no JSON object"),
        ("[]", "its metadata are no JSON object"),
        (json.dumps(facts | {"model": 3}), "its metadata do not state 'model' as they should"),
        ('{"input": ' + "[" * 100_000 + "]" * 100_000 + "}", "its metadata are no JSON object"),
        (json.dumps(facts | {"input": None}), "its metadata do not state 'dtype' as they should"),
        (
            json.dumps(facts | {"embedding_dim": -1}),
            "its metadata do not state 'embedding_dim' as they should",
        ),
        (
            json.dumps(facts | {"kernels": "best"}),
            "its metadata state 'kernels' as 'best'; expected 'fused' or 'aten'",
        ),
    ):
        assert said(metadata=text) == {"error": f"{other}: is damaged: {message}"}
    assert said(metadata=None) == {"error": f"{other}: was not exported by pocketnet_fast"}
