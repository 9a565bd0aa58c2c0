"""The quality of a face: what it rests on, its scale, and where it shows."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pocketnet_fast.data.alignment import TEMPLATE
from pocketnet_fast.data.images import ImageArray, read_image
from pocketnet_fast.faces.analyzer import FaceAnalyzer
from pocketnet_fast.faces.detector import FaceDetector
from pocketnet_fast.faces.face import Face
from pocketnet_fast.faces.quality import certainty, face_quality, quality_of, smallness

cv2 = pytest.importorskip("cv2")


def face(score: float, scale: float) -> Face:
    """A face of which a pixel of the photo is ``scale`` of the crop."""
    return Face((0.0, 0.0, 80 / scale, 80 / scale), TEMPLATE / scale + 7, score)


def test_it_rises_with_score_and_size_between_0_and_1() -> None:
    scores = [0.0, 0.7, 0.85, 0.9, 0.93, 0.95, 0.97]
    scales = [100.0, 20.0, 8.0, 5.6, 4.0, 2.9]
    for scale in (1.0, 5.0):
        values = [quality_of(score, scale) for score in scores]
        assert values == sorted(set(values))
    for score in (0.8, 0.95):
        values = [quality_of(score, scale) for scale in scales]
        assert values == sorted(set(values))
    assert 0 <= quality_of(0.0, 1000.0) < quality_of(1.0, 0.01) < 1
    # More pixels than enough, and more than the surest score, change nothing.
    assert quality_of(0.94, 2.7) == quality_of(0.94, 0.1)
    assert quality_of(0.97, 1) == quality_of(1.0, 1)


def test_its_parts_and_its_scale() -> None:
    assert certainty(0.9) - certainty(0.8) == pytest.approx(certainty(0.95) - certainty(0.9))
    assert [smallness(112 / side) for side in (112, 40, 20, 10)] == pytest.approx([0, 0, 1, 3])
    # The median face of the benchmarks and one in twenty (docs/models/quality.md).
    assert quality_of(0.941, 1) == pytest.approx(0.5, abs=0.02)
    assert quality_of(0.903, 1) == pytest.approx(0.05, abs=0.01)
    assert quality_of(0.941, 112 / 20) < 0.2
    assert math.isclose(face_quality(face(0.93, 4.0)), quality_of(0.93, 4.0), rel_tol=1e-9)
    turned = replace(
        face(0.93, 4.0), landmarks=face(0.93, 4.0).landmarks @ np.array([[0.6, 0.8], [-0.8, 0.6]])
    )
    assert math.isclose(face_quality(turned), quality_of(0.93, 4.0), rel_tol=1e-9)


@pytest.fixture(scope="module")
def portrait() -> ImageArray:
    package = Path(pytest.importorskip("skimage").__file__).parent
    return read_image(package / "data" / "astronaut.png")[:260, 90:350]


def test_faces_of_photos_have_it(portrait: ImageArray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POCKETNET_DETECTOR", raising=False)
    analyzer = FaceAnalyzer()
    (good,) = analyzer.analyze(portrait)
    assert good.quality == face_quality(good)
    assert good.quality > 0.2
    (tiny,) = analyzer.analyze(cv2.resize(portrait, (40, 40), interpolation=cv2.INTER_AREA))
    assert tiny.quality < 0.05
    # It is of the face, not of the way up that the photo has, and of the network neither.
    (turned,) = analyzer.analyze(np.rot90(portrait))
    assert turned.quality == pytest.approx(good.quality, abs=0.1)
    assert analyzer.analyze(portrait, choose=lambda faces, _: [])[0].quality == good.quality
    assert FaceDetector().detect(portrait)[0].quality is None
    monkeypatch.setattr(
        FaceDetector, "detect", lambda self, image: [replace(good, doubt="why", quality=None)]
    )
    assert analyzer.analyze(portrait)[0].quality is None
