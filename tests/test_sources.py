"""Embedded faces of files: the same of a photo in every command, crops in batches, and every refusal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import Run, refused, runner
from faces import crop, write_crops

import pocketnet_fast
from pocketnet_fast.data.images import ImageArray, encode_image, read_image
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.evaluation.feature_file import read_features
from pocketnet_fast.faces.analyzer import FaceAnalyzer
from pocketnet_fast.faces.pipeline import Embedder
from pocketnet_fast.faces.sources import FaceSource
from pocketnet_fast.gallery.gallery import Gallery

cv2 = pytest.importorskip("cv2")


@pytest.fixture(autouse=True)
def _no_detector_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POCKETNET_DETECTOR", raising=False)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


@pytest.fixture(scope="module")
def portrait() -> ImageArray:
    package = Path(pytest.importorskip("skimage").__file__).parent
    return read_image(package / "data" / "astronaut.png")[:260, 90:350]


@pytest.fixture(scope="module")
def photos(portrait: ImageArray, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One face upside down; a large, a small and a tiny one; a tiny one alone; and none."""
    folder = tmp_path_factory.mktemp("photos")
    scene = np.full((300, 520, 3), 90, np.uint8)
    scene[20:280, 250:510] = portrait
    for size, left in ((130, 10), (52, 170)):
        scene[10 : 10 + size, left : left + size] = cv2.resize(
            portrait[:, ::-1], (size, size), interpolation=cv2.INTER_AREA
        )
    images = {
        "turned": np.rot90(portrait, 2),
        "scene": scene,
        "tiny": cv2.resize(portrait, (34, 34), interpolation=cv2.INTER_AREA),
        "wall": np.full((90, 90, 3), 99, np.uint8),
    }
    for name, image in images.items():
        (folder / f"{name}.png").write_bytes(encode_image(image, ".png"))
    return {name: folder / f"{name}.png" for name in images}


@pytest.mark.slow
def test_a_photo_has_one_embedding_in_all_commands(run: Run, photos: dict[str, Path], tmp_path: Path) -> None:
    given = [photos["turned"], photos["scene"]]
    expected = [entry["faces"][0]["embedding"] for entry in run("faces", *given, "--json").json]
    embedded = run("embed", *given, "--json").json["embeddings"]
    assert [row["embedding"] for row in embedded] == expected
    assert run("gallery", "build", *given, "-o", tmp_path / "g").code == 0
    np.testing.assert_allclose(Gallery(tmp_path / "g").embeddings()[1], expected, atol=1e-7)
    found = run("gallery", "search", tmp_path / "g", *given, "--json").json["results"]
    assert [result["matches"][0]["score"] for result in found] == pytest.approx([1, 1], abs=1e-6)
    (tmp_path / "list").write_text("turned.png\nscene.png\n")
    features = tmp_path / "f.bin"
    extract = ("megaface", "extract", tmp_path / "list", "--root", photos["scene"].parent, "-o", features)
    assert run(*extract).code == 0
    np.testing.assert_array_equal(read_features(features), np.array(expected, np.float32))
    verified = run("verify", *given, "--json").json
    assert verified["cosine"] == pytest.approx(float(np.dot(*expected)), abs=1e-6)
    assert verified["same"]
    # Engines, and the exported network, agree up to rounding.
    pocketnet_fast.export_torchscript(
        pocketnet_fast.create_model("pocketnet_s128", pretrained=True), tmp_path / "s.pt", kernels="aten"
    )
    for options in (["--engine", "eager"], ["--weights", tmp_path / "s.pt"], ["--batch", 1]):
        rows = run("embed", *given, "--json", *options).json["embeddings"]
        np.testing.assert_allclose([row["embedding"] for row in rows], expected, atol=1e-4)


def test_the_most_prominent_face_or_every_usable_one(analyzer: FaceAnalyzer, photos: dict[str, Path]) -> None:
    source = FaceSource(analyzer)
    first, second = source.faces([photos["scene"], photos["turned"]])
    assert (first.path, second.path) == (str(photos["scene"]), str(photos["turned"]))
    assert (len(first.faces), len(second.faces)) == (3, 1)
    assert [face.embedding is None for face in first.faces] == [False, True, True]
    assert first.norm == first.faces[0].norm > 0
    large, small = source.faces([photos["scene"]], every_face=True)
    assert large.faces[0].size > small.faces[0].size > large.faces[2].size
    assert small.faces == [large.faces[1], large.faces[0], large.faces[2]]
    np.testing.assert_array_equal(large.embedding, first.embedding)
    alone = source.face(read_image(photos["scene"]), "a")
    assert alone.path == "a"
    np.testing.assert_array_equal(alone.embedding, first.embedding)


def test_what_cannot_be_used(analyzer: FaceAnalyzer, photos: dict[str, Path], tmp_path: Path) -> None:
    source = FaceSource(analyzer)
    for name, message in {"wall": "no face found", "tiny": "pixels wide; at least"}.items():
        for every_face in (False, True):
            with pytest.raises(PocketNetError, match=rf"{photos[name]}: .*{message}"):
                list(source.faces([photos[name]], every_face=every_face))
        with pytest.raises(PocketNetError, match=rf"^b: .*{message}"):
            source.face(read_image(photos[name]), "b")
    errors: list[str] = []
    done: list[int] = []
    given = [photos["wall"], photos["turned"], tmp_path / "none.png", photos["tiny"]]
    found = source.faces(
        given, on_photo=lambda: done.append(1), on_error=lambda error: errors.append(str(error))
    )
    assert [face.path for face in found] == [str(photos["turned"])]
    assert [Path(error.partition(": ")[0]).name for error in errors] == ["wall.png", "none.png", "tiny.png"]
    assert len(done) == 4


def test_aligned_crops(tmp_path: Path) -> None:
    embedder = Embedder(pocketnet_fast.create_model("pocketnet", channels=2, layers=4), batch_size=2)
    source = FaceSource(embedder)
    write_crops(tmp_path, 3)
    (tmp_path / "large.png").write_bytes(encode_image(crop(0, 120), ".png"))
    paths = [tmp_path / name for name in ("0.png", "large.png", "1.png", "2.png")]
    errors: list[PocketNetError] = []
    found = list(source.faces(paths, on_error=errors.append))
    assert [Path(face.path).name for face in found] == ["0.png", "1.png", "2.png"]
    assert "large.png is 120x120; an aligned crop is 112x112" in str(errors[0])
    rows = embedder(np.stack([crop(number) for number in range(3)]))
    for number, (face, row) in enumerate(zip(found, rows, strict=True)):
        assert face.faces == []
        np.testing.assert_array_equal(face.crop, crop(number))
        np.testing.assert_allclose(face.norm * face.embedding, row, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(source.face(crop(1), "x").embedding, found[1].embedding, atol=1e-6)
    with pytest.raises(PocketNetError, match="x is 120x120"):
        source.face(crop(1, 120), "x")
    with pytest.raises(PocketNetError, match=r"large\.png is 120x120"):
        list(source.faces(paths))


def test_the_package_alone_decides(
    run: Run, photos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No variable, no network and no option is needed."""
    for name in ("POCKETNET_SHARED", "POCKETNET_CACHE", "HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    result = run("verify", photos["turned"], photos["scene"])
    assert result.code == 0
    assert "\nsame person (threshold: cosine " in result.out
    assert refused(run("verify", photos["turned"], photos["wall"]), "wall.png: no face found")
