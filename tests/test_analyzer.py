"""From photos to faces in one object: what it gives, of which kinds of photos, alone and many at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import at_once

import pocketnet_fast
from pocketnet_fast.data.alignment import align
from pocketnet_fast.data.images import ImageArray, encode_image, read_image
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.faces.analyzer import FaceAnalyzer, Photo
from pocketnet_fast.faces.detector import FaceDetector
from pocketnet_fast.faces.face import Face
from pocketnet_fast.faces.pipeline import Embedder, normalized

cv2 = pytest.importorskip("cv2")


@pytest.fixture(autouse=True, scope="module")
def _no_detector_of_the_user() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("POCKETNET_DETECTOR", raising=False)
        yield


@pytest.fixture(scope="module")
def analyzer() -> FaceAnalyzer:
    return pocketnet_fast.FaceAnalyzer()


@pytest.fixture(scope="module")
def scene() -> ImageArray:
    """A large face, a small one of the same person mirrored, and nothing else."""
    package = Path(pytest.importorskip("skimage").__file__).parent
    portrait = read_image(package / "data" / "astronaut.png")[:260, 90:350]
    small = cv2.resize(portrait[:, ::-1], None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA)
    canvas = np.full((300, 420, 3), 90, np.uint8)
    canvas[:104, :104] = small
    canvas[20:280, 130:390] = portrait
    return canvas


def same_faces(one: list[Face], other: list[Face]) -> bool:
    return len(one) == len(other) and all(
        a.box == b.box and np.array_equal(a.embedding, b.embedding) for a, b in zip(one, other, strict=True)
    )


def test_every_face_with_all_there_is_to_know(analyzer: FaceAnalyzer, scene: ImageArray) -> None:
    first, second = analyzer.analyze(scene)
    assert first.size > 2 * second.size
    for face in (first, second):
        assert face.landmarks.shape == (5, 2)
        assert (face.turn, face.doubt) == (0, None)
        assert face.crop is not None
        assert face.embedding is not None
        np.testing.assert_array_equal(face.crop, align(scene, face.landmarks))
        assert face.embedding.dtype == np.float32
        assert np.linalg.norm(face.embedding) == pytest.approx(1, abs=1e-6)
    assert float(first.embedding @ second.embedding) > 0.5
    # What the parts give one by one.
    embedder = Embedder(pocketnet_fast.create_model("pocketnet_s128", pretrained=True), flip=True)
    assert [face.box for face in FaceDetector().detect(scene)] == [first.box, second.box]
    np.testing.assert_allclose(normalized(embedder(first.crop[None]))[0], first.embedding, atol=1e-6)
    assert analyzer.calibration is not None


def test_a_path_bytes_or_an_array(analyzer: FaceAnalyzer, scene: ImageArray, tmp_path: Path) -> None:
    path = tmp_path / "scene.png"
    path.write_bytes(encode_image(scene, ".png"))
    expected = analyzer.analyze(scene)
    photos: list[Photo] = [
        path,
        str(path),
        path.read_bytes(),
        bytearray(path.read_bytes()),
        scene[:, ::-1][:, ::-1],
    ]
    for photo in photos:
        assert same_faces(analyzer.analyze(photo), expected)
    with pytest.raises(PocketNetError, match="got a list"):
        analyzer.analyze([1, 2])  # type: ignore[arg-type]
    with pytest.raises(PocketNetError, match="H x W x 3 uint8"):
        analyzer.analyze(np.zeros((4, 4)))  # type: ignore[arg-type]
    with pytest.raises(PocketNetError, match="no such file"):
        analyzer.analyze(tmp_path / "none.jpg")
    assert analyzer.analyze(np.zeros((50, 60, 3), np.uint8)) == []


def test_turned_photos_say_so(analyzer: FaceAnalyzer, scene: ImageArray) -> None:
    upright = analyzer.analyze(scene)[0]
    found = analyzer.analyze(np.rot90(scene))[0]
    assert found.turn == 90
    assert float(found.embedding @ upright.embedding) > 0.95
    as_given = FaceAnalyzer(upright=False).analyze(np.rot90(scene, 2))
    assert all(float(face.embedding @ upright.embedding) < 0.7 for face in as_given if face.doubt is None)


def test_doubtful_faces_are_marked_and_not_embedded(
    analyzer: FaceAnalyzer, scene: ImageArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    detect = FaceDetector.detect

    def one_doubtful(self: FaceDetector, image: ImageArray) -> list[Face]:
        found = detect(self, image)
        return [found[0], Face(found[1].box, found[1].landmarks, found[1].score, "why")]

    monkeypatch.setattr(FaceDetector, "detect", one_doubtful)
    sure, doubtful = analyzer.analyze(scene)
    assert sure.embedding is not None
    assert (doubtful.doubt, doubtful.crop, doubtful.embedding) == ("why", None, None)


@pytest.mark.slow
def test_options(scene: ImageArray, tmp_path: Path) -> None:
    whole = FaceAnalyzer().analyze(scene)
    assert same_faces(FaceAnalyzer(max_faces=1).analyze(scene), whole[:1])
    assert same_faces(FaceAnalyzer(threads=1).analyze(scene), whole)
    half = FaceAnalyzer(precision="bf16").analyze(scene)
    assert len(half) == len(whole)
    for found, exact in zip(half, whole, strict=True):
        # Detection is in half precision, too.
        assert not np.array_equal(found.landmarks, exact.landmarks)
        np.testing.assert_allclose(found.landmarks, exact.landmarks, atol=0.02 * exact.size)
        assert float(found.embedding @ exact.embedding) > 0.99
    single = FaceAnalyzer(flip=False).analyze(scene)
    assert not np.allclose(single[0].embedding, whole[0].embedding, atol=1e-3)

    tiny = pocketnet_fast.create_model("pocketnet", channels=2, layers=4, embedding_dim=8)
    assert FaceAnalyzer(model=tiny).analyze(scene)[0].embedding.shape == (8,)
    from pocketnet_fast.models.weights import save_weights

    save_weights(tiny, tmp_path / "tiny.safetensors")
    assert FaceAnalyzer(weights=tmp_path / "tiny.safetensors").analyze(scene)[0].embedding.shape == (8,)

    with pytest.raises(PocketNetError, match="max_faces is 0"):
        FaceAnalyzer(max_faces=0)
    for threads in (0, 2.5):
        with pytest.raises(PocketNetError, match=f"threads is {threads}; expected a whole number"):
            FaceAnalyzer(threads=threads)  # type: ignore[arg-type]
    with pytest.raises(PocketNetError, match="unknown engine 'warp'"):
        FaceAnalyzer(engine="warp")
    with pytest.raises(PocketNetError, match="batch_size is 0"):
        FaceAnalyzer(batch_size=0)
    with pytest.raises(PocketNetError, match="already has its weights"):
        FaceAnalyzer(model=tiny, weights=tmp_path / "tiny.safetensors")
    with pytest.raises(PocketNetError, match="no pretrained weights ship"):
        FaceAnalyzer(model="iresnet50")
    with pytest.raises(PocketNetError, match="precision is 'int8'"):
        FaceAnalyzer(precision="int8")
    network = pocketnet_fast.create_model("iresnet18")
    with pytest.raises(PocketNetError, match="precision is 'bf16', which is of the fused engine"):
        FaceAnalyzer(model=network, precision="bf16")


def test_many_photos_in_order(analyzer: FaceAnalyzer, scene: ImageArray) -> None:
    photos = [scene, scene[:, :200], np.zeros((40, 40, 3), np.uint8), scene[:, ::-1]] * 3
    expected = [analyzer.analyze(photo) for photo in photos]
    for threads in (1, 3):
        found = list(FaceAnalyzer(threads=threads).analyze_many(photos))
        assert len(found) == len(photos)
        assert all(map(same_faces, found, expected))
    assert list(analyzer.analyze_many([])) == []


def test_photos_are_taken_as_they_are_needed(analyzer: FaceAnalyzer, scene: ImageArray) -> None:
    taken: list[int] = []

    def photos() -> Iterator[ImageArray]:
        for number in range(100):
            taken.append(number)
            yield scene[:, :120]

    results = analyzer.analyze_many(photos())
    next(results)
    from pocketnet_fast.ops.native import usable_threads

    assert len(taken) <= 2 * usable_threads() + 1
    results.close()
    assert len(taken) <= 2 * usable_threads() + 1
    assert not any(thread.name.startswith("faces") for thread in threading.enumerate())


def test_a_broken_photo_among_many(analyzer: FaceAnalyzer, scene: ImageArray) -> None:
    photos: list[Photo] = [scene, b"no image", scene]
    found = []
    with pytest.raises(PocketNetError, match="image is a text, not an image"):
        found.extend(analyzer.analyze_many(photos))
    errors: list[tuple[Photo, str]] = []
    left = list(
        analyzer.analyze_many(photos, on_error=lambda photo, error: errors.append((photo, str(error))))
    )
    assert [len(faces) for faces in left] == [2, 0, 2]
    assert [photo for photo, _ in errors] == [b"no image"]


@pytest.mark.parametrize("engine", ["fused", "eager"])
def test_photos_in_batches(scene: ImageArray, engine: str) -> None:
    """Where torch runs the convolutions the photos of a batch are embedded together; the same comes out."""
    analyzer = FaceAnalyzer(engine=engine, batch_size=3, threads=2)
    assert analyzer.embedder.prefers_batches == (engine == "eager")
    photos: list[Photo] = [scene, b"no image", scene[:, :200], np.zeros((40, 40, 3), np.uint8), scene]
    errors: list[Photo] = []
    found = list(analyzer.analyze_many(photos, on_error=lambda photo, _: errors.append(photo)))
    assert [len(faces) for faces in found] == [2, 0, 1, 0, 2]
    assert errors == [b"no image"]
    for faces, photo in zip(found, photos, strict=True):
        for face, alone in zip(faces, [] if photo is photos[1] else analyzer.analyze(photo), strict=True):
            np.testing.assert_allclose(face.embedding, alone.embedding, atol=1e-5)
    before: list[int] = []
    with pytest.raises(PocketNetError, match="not an image"):
        before.extend(len(faces) for faces in analyzer.analyze_many(photos))
    assert before == [2]


def test_some_faces_are_chosen(analyzer: FaceAnalyzer, scene: ImageArray) -> None:
    whole = analyzer.analyze(scene)
    first, second = analyzer.analyze(scene, choose=lambda faces, _: faces[1:])
    assert (first.box, second.box) == (whole[0].box, whole[1].box)
    assert (first.crop, first.embedding, first.norm) == (None, None, None)
    np.testing.assert_array_equal(second.embedding, whole[1].embedding)

    def refuse(faces: list[Face], name: str) -> list[Face]:
        raise PocketNetError(f"{name} has {len(faces)} faces")

    with pytest.raises(PocketNetError, match="image has 2 faces"):
        analyzer.analyze(scene, choose=refuse)
    errors: list[str] = []
    found = analyzer.analyze_many(
        [scene, scene[:, :120]], choose=refuse, on_error=lambda _, error: errors.append(str(error))
    )
    assert list(found) == [[], []]
    assert errors == ["image has 2 faces", "image has 1 faces"]


def test_from_many_threads_at_once(analyzer: FaceAnalyzer, scene: ImageArray) -> None:
    photos = [scene, scene[:, :200], scene[:, ::-1]]
    expected = [analyzer.analyze(photo) for photo in photos]
    right: list[bool] = []

    def work(number: int) -> None:
        right.append(all(same_faces(analyzer.analyze(photos[number]), expected[number]) for _ in range(3)))

    at_once(lambda number: work(number % 3), 6)
    assert right == [True] * 6
