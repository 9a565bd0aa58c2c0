"""Photos the wrong way up and tilted faces: found upright, or doubted.

``csrc/tests/faces_test.cpp`` tests how it is decided.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from find_faces_reference import straightened

from pocketnet_fast.data.alignment import TEMPLATE
from pocketnet_fast.data.images import ImageArray, read_image
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.faces.detector import FaceDetector, select_face
from pocketnet_fast.faces.face import Face

cv2 = pytest.importorskip("cv2")

ASTRONAUT_LANDMARKS = np.array(
    ((200.1, 101.8), (247.1, 102.6), (220.4, 124.5), (198.6, 142.8), (239.7, 143.6))
)


def face_at(x: float, y: float, tilt: float, score: float, size: float = 60.0) -> Face:
    """A face of the template's proportions about a point, tilted clockwise by so many degrees."""
    angle = np.radians(tilt)
    turn = np.array(((np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))))
    landmarks = (TEMPLATE - TEMPLATE.mean(0)) * (size / 80) @ turn.T + (x, y)
    return Face((x - size / 2, y - size / 2, size, size), landmarks, score)


def test_tilt_and_turn() -> None:
    for tilt, turn in ((0, 0), (30, 0), (-44, 0), (46, 270), (90, 270), (-90, 90), (180, 180), (-136, 180)):
        face = face_at(100, 80, tilt, 0.9)
        assert face.tilt == pytest.approx(tilt, abs=1.0)
        assert face.turn == turn


def test_two_ways_up_that_are_as_likely_are_doubted() -> None:
    with pytest.raises(PocketNetError, match="doubtful, it is unclear which way up"):
        select_face([replace(face_at(100, 80, 0, 0.88), doubt="it is unclear which way up it is")])


@pytest.fixture(scope="module")
def astronaut() -> ImageArray:
    package = Path(pytest.importorskip("skimage").__file__).parent
    return read_image(package / "data" / "astronaut.png")


@pytest.mark.parametrize("tilt", [0, 90, 180, 270, 30, -30, 45, -45, 60, -60, 135])
def test_an_astronaut_is_found_whichever_way_up(
    tilt: int, detector: FaceDetector, astronaut: ImageArray
) -> None:
    # Taking a tilt away from an upright photo tilts it the other way.
    photo, matrix = straightened(astronaut, -tilt % 360)
    face = detector.detect(photo)[0]
    expected = ASTRONAUT_LANDMARKS @ matrix[:, :2].T + matrix[:, 2]
    eyes = np.linalg.norm(expected[0] - expected[1])
    assert np.linalg.norm(face.landmarks - expected, axis=1).mean() < 0.13 * eyes
    assert abs((face.tilt - tilt + 180) % 360 - 180) < 8
    assert face.doubt is None
    left, top, width, height = face.box
    assert (expected > (left, top)).all()
    assert (expected < (left + width, top + height)).all()


def test_without_upright_a_photo_is_taken_as_it_is(astronaut: ImageArray) -> None:
    detector = FaceDetector(upright=False)
    turned = np.ascontiguousarray(np.rot90(astronaut, 2))
    assert all(face.turn == 0 for face in detector.detect(turned))
