"""``pocketnet faces``: what it prints and writes of the faces of photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import Run, refused, runner_without_detector

from pocketnet_fast.data.images import encode_image, read_image

pytest.importorskip("cv2")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner_without_detector(monkeypatch, capsys, "faces")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two faces, no face, and a photo upside down of the first's name in another folder."""
    package = Path(pytest.importorskip("skimage").__file__).parent
    portrait = read_image(package / "data" / "astronaut.png")[:260, 90:350]
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    for name, image in {
        "a.png": np.concatenate([portrait, portrait[:, ::-1]], 1),
        "b.png": np.full((60, 80, 3), 200, np.uint8),
        "more/a.png": np.rot90(portrait, 2),
    }.items():
        (folder / name).write_bytes(encode_image(image, ".png"))
    return folder


def test_a_table(run: Run, photos: Path) -> None:
    result = run(photos)
    lines = result.out.splitlines()
    assert result.code == 0
    assert [line for line in lines if not line.startswith(" ")] == [
        f"{photos / 'a.png'}: 2 faces",
        f"{photos / 'b.png'}: 0 faces",
        f"{photos / 'more' / 'a.png'}: 1 face",
    ]
    assert sum(line.startswith("  ") for line in lines) == 3
    assert "the photo turned by 180 degrees" in lines[-1]
    assert all(", quality 0." in line for line in lines if line.startswith("  "))


def test_json_has_all_of_it(run: Run, photos: Path) -> None:
    first, second, third = run(photos, "--json").json
    assert first["file"] == str(photos / "a.png")
    assert [len(entry["faces"]) for entry in (first, second, third)] == [2, 0, 1]
    face = third["faces"][0]
    assert set(face) == {"box", "landmarks", "score", "turn", "doubt", "quality", "embedding"}
    assert (face["turn"], face["doubt"]) == (180, None)
    assert 0.2 < face["quality"] < 1
    one, other = (np.array(face["embedding"]) for face in (first["faces"][0], third["faces"][0]))
    assert len(one) == 128
    assert float(one @ other) > 0.8
    assert len(run(photos / "a.png", "--json", "--max-faces", 1).json[0]["faces"]) == 1


def test_pictures_and_crops(run: Run, photos: Path, tmp_path: Path) -> None:
    assert run(photos, "--show", tmp_path / "seen", "--crops", tmp_path / "crops").code == 0
    assert sorted(path.name for path in (tmp_path / "seen").iterdir()) == ["a-2.png", "a.png", "b.png"]
    assert sorted(path.name for path in (tmp_path / "crops").iterdir()) == ["a-2_0.png", "a_0.png", "a_1.png"]
    assert all(read_image(path).shape == (112, 112, 3) for path in (tmp_path / "crops").iterdir())
    photo, seen = read_image(photos / "a.png"), read_image(tmp_path / "seen" / "a.png")
    assert photo.shape == seen.shape
    green = np.abs(seen.astype(int) - (20, 140, 60)).max(axis=2) == 0
    assert green[:, :260].sum() > 50
    assert green[:, 260:].sum() > 50
    np.testing.assert_array_equal(read_image(photos / "b.png"), read_image(tmp_path / "seen" / "b.png"))


def test_a_photo_is_read_once(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pocketnet_fast.data import images

    taken: list[Path] = []
    read_bytes = images.read_bytes

    def counted(path: Path, *limits: object) -> bytes:
        taken.append(path)
        return read_bytes(path, *limits)

    monkeypatch.setattr(images, "read_bytes", counted)
    (tmp_path / "x.jpg").write_bytes(b"nothing")
    given = [photos / "a.png", tmp_path / "x.jpg", photos / "more" / "a.png"]
    for options in ([], ["--show", tmp_path / "seen"]):
        taken.clear()
        result = run(*given, "--json", *options)
        assert [entry["file"] for entry in result.json] == [str(given[0]), str(given[2])]
        assert result.err.count("left out: ") == 1
        assert sorted(map(str, taken)) == sorted(map(str, given))
    assert sorted(path.name for path in (tmp_path / "seen").iterdir()) == ["a-2.png", "a.png"]


def test_what_cannot_be_read_is_left_out(run: Run, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"nothing")
    result = run(tmp_path / "x.jpg", photos / "b.png", "--json")
    assert result.code == 0
    assert [entry["file"] for entry in result.json] == [str(photos / "b.png")]
    assert "left out: " in result.err
    assert "x.jpg" in result.err
    assert refused(run(tmp_path / "x.jpg"), "none of the photos could be read")
    assert refused(run(photos / "a.png", "--show", photos / "a.png"), "cannot be a folder")
    assert refused(run(photos / "a.png", "--detector", tmp_path / "none.onnx"), "no such file")
