"""The detector: its model file, and a defined answer for every kind of photo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import at_once

from pocketnet_fast.data.alignment import TEMPLATE, similarity_transform
from pocketnet_fast.data.images import read_image
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.faces.detector import Face, FaceDetector, find_detector, select_face
from pocketnet_fast.models.weights import save_weights
from pocketnet_fast.models.yunet import load_yunet

cv2 = pytest.importorskip("cv2")


@pytest.fixture(autouse=True)
def _no_detector_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POCKETNET_DETECTOR", raising=False)


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    package = Path(pytest.importorskip("skimage").__file__).parent
    return read_image(package / "data" / "astronaut.png")


ASTRONAUT_LANDMARKS = ((200.1, 101.8), (247.1, 102.6), (220.4, 124.5), (198.6, 142.8), (239.7, 143.6))


def landmark_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Mean distance, as a part of the distance between the eyes."""
    return float(np.linalg.norm(found - expected, axis=1).mean() / np.linalg.norm(expected[0] - expected[1]))


class TestModelFile:
    def test_the_one_that_ships_needs_no_file(self) -> None:
        assert find_detector() is None
        assert FaceDetector().path is None

    def test_order_of_places(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "b.onnx").touch()
        monkeypatch.setenv("POCKETNET_DETECTOR", str(tmp_path / "b.onnx"))
        assert find_detector() == tmp_path / "b.onnx"
        (tmp_path / "c.onnx").touch()
        assert find_detector(tmp_path / "c.onnx") == tmp_path / "c.onnx"

    def test_a_named_file_must_exist(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(PocketNetError, match="no such file"):
            find_detector(tmp_path / "x.onnx")
        monkeypatch.setenv("POCKETNET_DETECTOR", str(tmp_path / "y.onnx"))
        with pytest.raises(PocketNetError, match="POCKETNET_DETECTOR"):
            find_detector()

    def test_another_yunet_is_read_as_onnx_and_as_weights(self, yunet: Path, tmp_path: Path) -> None:
        own = load_yunet(yunet)
        with torch.no_grad():
            own.heads[0].depthwise.bias[:2] -= 100
        save_weights(own, tmp_path / "own.safetensors")
        published, shipped = FaceDetector(yunet), FaceDetector()
        assert torch.equal(published.lowered()[1], shipped.lowered()[1])
        changed = FaceDetector(tmp_path / "own.safetensors")
        assert not torch.equal(changed.lowered()[1], shipped.lowered()[1])

    def test_not_a_model(self, tmp_path: Path) -> None:
        path = tmp_path / "x.onnx"
        path.write_bytes(b"this is no network")
        with pytest.raises(PocketNetError, match=r"x\.onnx cannot be read as an ONNX file"):
            FaceDetector(path)


def face(size: float, score: float = 0.9) -> Face:
    return Face((0.0, 0.0, size, size * 1.3), TEMPLATE.copy(), score)


class TestSelection:
    def test_no_face(self) -> None:
        with pytest.raises(PocketNetError, match=r"a\.jpg: no face found"):
            select_face([], "a.jpg")

    def test_tiny_face(self) -> None:
        with pytest.raises(PocketNetError, match=r"a\.jpg: the largest face is 12 pixels wide; at least 32"):
            select_face([face(12)], "a.jpg")
        assert select_face([face(12)], "a.jpg", min_size=10).size == 12

    def test_prominence_weighs_area_and_score(self) -> None:
        assert face(100, 0.9).prominence > face(100, 0.8).prominence > face(80, 0.95).prominence


class TestDetection:
    def test_astronaut(self, detector: FaceDetector, astronaut: np.ndarray) -> None:
        (found,) = detector.detect(astronaut)
        assert found.score > 0.9
        assert landmark_error(found.landmarks, np.array(ASTRONAUT_LANDMARKS)) < 0.09
        left, top, width, height = found.box
        inside = (found.landmarks > (left, top)) & (found.landmarks < (left + width, top + height))
        assert inside.all()

    def test_two_faces_largest_first(self, detector: FaceDetector, astronaut: np.ndarray) -> None:
        portrait = astronaut[:260, 90:350]
        small = cv2.resize(portrait, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA)
        scene = np.zeros((300, 420, 3), np.uint8)
        scene[:104, :104] = small
        scene[20:280, 130:390] = portrait
        first, second = detector.detect(scene)
        assert first.box[0] > 130 > second.box[0]
        assert first.size > 2 * second.size

    @pytest.mark.parametrize("scale", [0.1, 0.25, 1.0, 3.0, 6.0])
    def test_scale_of_the_photo_does_not_matter(
        self, detector: FaceDetector, astronaut: np.ndarray, scale: float
    ) -> None:
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        image = cv2.resize(astronaut, None, fx=scale, fy=scale, interpolation=how)
        found = detector.detect(image)[0]
        expected = (np.array(ASTRONAUT_LANDMARKS) + 0.5) * scale - 0.5
        assert landmark_error(found.landmarks, expected) < 0.15

    def test_small_face_in_a_large_photo(self, detector: FaceDetector, astronaut: np.ndarray) -> None:
        scene = np.full((1500, 2000, 3), 90, np.uint8)
        scene[700:956, 900:1156] = cv2.resize(astronaut, (256, 256), interpolation=cv2.INTER_AREA)
        (found,) = detector.detect(scene)
        expected = (np.array(ASTRONAUT_LANDMARKS) + 0.5) / 2 - 0.5 + (900, 700)
        # A single pass over the reduced photo is off by 0.18; looking again at the face itself mends it.
        assert landmark_error(found.landmarks, expected) < 0.1

    def test_face_that_fills_a_large_photo(self, detector: FaceDetector, astronaut: np.ndarray) -> None:
        close = cv2.resize(astronaut[65:165, 172:272], (2400, 2400), interpolation=cv2.INTER_CUBIC)
        found = detector.detect(close)[0]
        assert found.size > 1500

    def test_tiny_face_is_found_and_refused(self, detector: FaceDetector, astronaut: np.ndarray) -> None:
        tiny = cv2.resize(astronaut, (80, 80), interpolation=cv2.INTER_AREA)
        faces = detector.detect(tiny)
        assert len(faces) == 1
        with pytest.raises(PocketNetError, match="pixels wide"):
            select_face(faces)

    @pytest.mark.parametrize("shape", [(1, 1), (1, 3), (4000, 1), (3, 4000), (120, 90)])
    @pytest.mark.parametrize("fill", ["flat", "noise"])
    def test_no_face(self, detector: FaceDetector, shape: tuple[int, int], fill: str) -> None:
        image = np.full((*shape, 3), 128, np.uint8)
        if fill == "noise":
            image = np.random.default_rng(1).integers(0, 256, image.shape, dtype=np.uint8)
        assert detector.detect(image) == []

    @pytest.mark.parametrize(
        "image",
        [
            np.zeros((9, 9), np.uint8),
            np.zeros((9, 9, 4), np.uint8),
            np.zeros((9, 9, 3)),
            np.zeros((0, 9, 3), np.uint8),
        ],
    )
    def test_unusable_arrays(self, detector: FaceDetector, image: np.ndarray) -> None:
        with pytest.raises(PocketNetError, match="H x W x 3 uint8"):
            detector.detect(image)

    def test_views_are_read_right(self, detector: FaceDetector, astronaut: np.ndarray) -> None:
        view = astronaut[:, ::-1]
        (found,), (expected,) = detector.detect(view), detector.detect(view.copy())
        np.testing.assert_array_equal(found.landmarks, expected.landmarks)
        assert abs(found.landmarks[2, 0] - (511 - 220.4)) < 5

    def test_from_many_threads(self, detector: FaceDetector, astronaut: np.ndarray) -> None:
        images = [astronaut, cv2.resize(astronaut, (300, 300)), astronaut[:300, 50:400]] * 2
        expected = [detector.detect(image)[0].box for image in images]
        found: dict[int, Any] = {}

        def work(index: int) -> None:
            found[index] = detector.detect(images[index])[0].box

        at_once(work, len(images))
        assert [found[index] for index in range(len(images))] == expected


@pytest.fixture(scope="module")
def faces(detector: FaceDetector, shared_dir: Path) -> dict[str, list[Face]]:
    photos = sorted((shared_dir / "data" / "photos").glob("*.jpg"))
    if not photos:
        pytest.skip(f"no photos in {shared_dir / 'data' / 'photos'}")
    return {path.name: detector.detect(read_image(path)) for path in photos}


class TestPhotos:
    def test_every_photo_has_its_subject(self, faces: dict[str, list[Face]]) -> None:
        """The photos are centred on their subject, so the chosen face must lie there."""
        for name, found in faces.items():
            left, top, width, height = select_face(found, name).box
            assert abs(left + width / 2 - 125) < 30, name
            assert abs(top + height / 2 - 125) < 30, name

    def test_landmarks_fit_the_template(self, faces: dict[str, list[Face]]) -> None:
        errors = []
        for found in faces.values():
            matrix = similarity_transform(found[0].landmarks, TEMPLATE)
            errors.append(landmark_error(found[0].landmarks @ matrix[:, :2].T + matrix[:, 2], TEMPLATE))
        assert np.median(errors) < 0.08
        assert max(errors) < 0.35
