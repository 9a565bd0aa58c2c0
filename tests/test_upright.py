"""Photos the wrong way up and tilted faces: found upright, or doubted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pocketnet_fast.data.alignment import TEMPLATE
from pocketnet_fast.data.images import ImageArray, read_image
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.faces.detector import FaceDetector, select_face
from pocketnet_fast.faces.face import Face, examined
from pocketnet_fast.faces.upright import straightened, upright_faces

cv2 = pytest.importorskip("cv2")

ASTRONAUT_LANDMARKS = np.array(
    ((200.1, 101.8), (247.1, 102.6), (220.4, 124.5), (198.6, 142.8), (239.7, 143.6))
)
PHOTO = np.zeros((300, 400, 3), np.uint8)


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


@pytest.mark.parametrize("shape", [(7, 5), (6, 9), (8, 8), (1, 4)])
@pytest.mark.parametrize("tilt", [90, 180, 270])
def test_quarter_turns_move_pixels_as_they_are(shape: tuple[int, int], tilt: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    result, matrix = straightened(image, tilt)
    y, x = np.mgrid[: shape[0], : shape[1]].reshape(2, -1)
    there = matrix[:, :2] @ np.stack((x, y)) + matrix[:, 2:]
    column, row = np.rint(there).astype(int)
    np.testing.assert_allclose(there, (column, row), atol=1e-9)
    np.testing.assert_array_equal(result[row, column], image[y, x])


def test_a_tilt_between_keeps_the_whole_image() -> None:
    image = np.full((30, 50, 3), 200, np.uint8)
    result, matrix = straightened(image, 45)
    corners = np.array(((0, 0), (49, 0), (0, 29), (49, 29)))
    there = corners @ matrix[:, :2].T + matrix[:, 2]
    assert there.min() > -1
    assert (there < np.array(result.shape[1::-1])).all()


class Seen:
    """A detector of one face that it is sure of only as far as the face is upright."""

    def __init__(self, tilt: float, score: Callable[[float], float]) -> None:
        self.tilt, self.score, self.looks = tilt, score, 0

    def detect(self, image: ImageArray) -> list[Face]:
        """What is seen of the face, of which the image has only the size: its tilt is found by trying."""
        self.looks += 1
        seen = (self.tilt, self.tilt - 90, self.tilt - 180, self.tilt - 270)[min(self.looks - 1, 3)]
        wrapped = (seen + 180) % 360 - 180
        return [face_at(image.shape[1] / 2, image.shape[0] / 2, 0.0, self.score(wrapped))]


def test_a_convincing_face_costs_no_second_look() -> None:
    seen = Seen(0, lambda _: 0.94)
    found = upright_faces(PHOTO, seen.detect(PHOTO), seen.detect, lambda *_: pytest.fail("looked again"))
    assert seen.looks == 1
    assert found[0].turn == 0


@pytest.mark.parametrize(("tilt", "turn"), [(0, 0), (90, 270), (180, 180), (270, 90)])
def test_the_best_of_four_ways_is_taken(tilt: float, turn: int) -> None:
    seen = Seen(tilt, lambda off: 0.91 if abs(off) < 1 else 0.85)
    found = upright_faces(PHOTO, seen.detect(PHOTO), seen.detect, lambda *_: [])
    assert seen.looks == 4
    assert [face.turn for face in found] == [turn]
    assert found[0].doubt is None


def test_two_ways_up_that_are_as_likely_are_doubted() -> None:
    seen = Seen(0, lambda off: 0.88 if abs(off) < 1 else 0.875)
    found = upright_faces(PHOTO, seen.detect(PHOTO), seen.detect, lambda *_: [])
    assert found[0].doubt is not None
    with pytest.raises(PocketNetError, match="doubtful, it is unclear which way up"):
        select_face(found)


def test_a_tilted_face_is_looked_at_along_its_tilt() -> None:
    def look(part: ImageArray, scale: float) -> list[Face]:
        middle = (part.shape[0] - 1) / 2
        return [face_at(middle, middle, 5.0, 0.95, size=224)]

    found = upright_faces(PHOTO, [face_at(200, 150, 40, 0.92)], lambda _: [], look)
    # 40 degrees were taken away before, and five more were seen.
    assert found[0].tilt == pytest.approx(45, abs=1)
    assert found[0].score == 0.95
    np.testing.assert_allclose(found[0].landmarks.mean(0), (200, 150), atol=1)
    assert found[0].size == pytest.approx(60, abs=1)


class TestDoubt:
    def doubt(self, change: Callable[[np.ndarray], None], size: float = 60.0) -> str:
        face = face_at(100, 100, 0, 0.9, size)
        change(face.landmarks)
        return examined(face).doubt or ""

    def test_none(self) -> None:
        assert self.doubt(lambda _: None) == ""

    def test_a_profile_has_none(self) -> None:
        def both_eyes_nearly_in_one_place(points: np.ndarray) -> None:
            points[:2, 0] = points[:2, 0].mean() + np.array((1.0, -1.0))
            points[3:, 0] = points[3:, 0].mean()
            points[2, 0] -= 15

        assert self.doubt(both_eyes_nearly_in_one_place) == ""

    def test_mirrored(self) -> None:
        def mirrored(points: np.ndarray) -> None:
            points[:, 0] = 200 - points[:, 0]

        assert "eyes are on each other's side" in self.doubt(mirrored)

    def test_a_nose_above_the_eyes(self) -> None:
        def nose(points: np.ndarray) -> None:
            points[2, 1] -= 40

        assert "nose is not between" in self.doubt(nose)

    def test_far_away(self) -> None:
        def away(points: np.ndarray) -> None:
            points += 200

        assert "outside its box" in self.doubt(away)

    def test_all_in_one_place(self) -> None:
        def collapsed(points: np.ndarray) -> None:
            points[:] = 100

        assert "too near" in self.doubt(collapsed)

    def test_not_finite(self) -> None:
        def lost(points: np.ndarray) -> None:
            points[1] = np.nan

        assert self.doubt(lost)


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
    assert np.linalg.norm(face.landmarks - expected, axis=1).mean() < 0.1 * eyes
    assert abs((face.tilt - tilt + 180) % 360 - 180) < 8
    assert face.doubt is None
    left, top, width, height = face.box
    assert (expected > (left, top)).all()
    assert (expected < (left + width, top + height)).all()


def test_without_upright_a_photo_is_taken_as_it_is(astronaut: ImageArray) -> None:
    detector = FaceDetector(upright=False)
    turned = np.ascontiguousarray(np.rot90(astronaut, 2))
    assert all(face.turn == 0 for face in detector.detect(turned))
