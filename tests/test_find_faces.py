"""The operator that finds the faces of photos, against the same steps in Python over OpenCV's resampling."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from find_faces_reference import Reference, straightened
from helpers import at_once
from native import (
    ROOT,
    build,
    release_build,
    sanitized_build,
    thread_sanitized_build,
    thread_sanitizer_launcher,
    tool,
)
from torch import Tensor

from pocketnet_fast.data.alignment import align
from pocketnet_fast.data.images import ImageArray, read_image
from pocketnet_fast.faces import Face, FaceDetector
from pocketnet_fast.lowering.yunet import lower_detector
from pocketnet_fast.models.yunet import load_yunet
from pocketnet_fast.ops.find_faces import find_faces
from pocketnet_fast.ops.native import available_isas, forced_isa

# Resampling in floating point differs from OpenCV's fixed point by a grey value here and there; by that,
# another of the places that see a face can become the surest, and its landmarks differ by some hundredths.
BOX, LANDMARKS, SCORE = 3.0, 3.0, 0.02


@pytest.fixture(scope="module")
def network() -> tuple[Tensor, Tensor]:
    return lower_detector(load_yunet()).encode()


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector()


@pytest.fixture(scope="module")
def astronaut() -> ImageArray:
    package = Path(pytest.importorskip("skimage").__file__).parent
    return read_image(package / "data" / "astronaut.png")


def check(found: list[Face], expected: list[Face], lenient: float = 1.0) -> None:
    assert len(found) == len(expected)
    for face, other in zip(found, expected, strict=True):
        size = lenient * max(1.0, other.size / 100)
        np.testing.assert_allclose(face.box, other.box, atol=BOX * size)
        np.testing.assert_allclose(face.landmarks, other.landmarks, atol=LANDMARKS * size)
        assert face.score == pytest.approx(other.score, abs=SCORE * lenient)
        assert (face.doubt is None) == (other.doubt is None)


def scene(astronaut: ImageArray) -> ImageArray:
    """Three of her: large, small, and over the border."""
    import cv2

    picture = np.full((400, 700, 3), 90, np.uint8)
    picture[:300, :300] = astronaut[:300, 100:400]
    picture[200:350, 350:500] = cv2.resize(astronaut[:300, 100:400], (150, 150), interpolation=cv2.INTER_AREA)
    picture[50:250, 620:] = astronaut[20:220, 130:210]
    return picture


@pytest.mark.parametrize("side", [60, 100, 250, 512, 1000, 2500])
def test_sizes(
    side: int, astronaut: ImageArray, detector: FaceDetector, network: tuple[Tensor, Tensor]
) -> None:
    import cv2

    kind = cv2.INTER_AREA if side < 512 else cv2.INTER_CUBIC
    photo = np.asarray(cv2.resize(astronaut, (side, side), interpolation=kind))
    found = detector.detect(photo)
    assert found
    check(found, Reference(*network).detect(photo), lenient=2.0 if side < 200 else 1.0)


@pytest.mark.parametrize("turns", range(4))
def test_several_faces(
    turns: int, astronaut: ImageArray, detector: FaceDetector, network: tuple[Tensor, Tensor]
) -> None:
    photo = np.rot90(scene(astronaut), turns)
    found = detector.detect(photo)
    assert len(found) >= 2
    check(found, Reference(*network).detect(np.ascontiguousarray(photo)))


@pytest.mark.parametrize("tilt", [30, 45, 200, 315])
def test_tilts(
    tilt: int, astronaut: ImageArray, detector: FaceDetector, network: tuple[Tensor, Tensor]
) -> None:
    """Tilts between quarter turns are taken away in another order, so pixels differ more."""
    photo = straightened(astronaut, tilt)[0]
    check(detector.detect(photo), Reference(*network).detect(photo), lenient=6.0)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (33, 31), (3, 2000)])
def test_photos_without_a_face(shape: tuple[int, int], network: tuple[Tensor, Tensor]) -> None:
    photo = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8))
    found = find_faces(photo, *network)
    assert found.dtype == torch.float64
    assert found.shape == (0, 17)


def test_strides_threads_and_callers(astronaut: ImageArray, network: tuple[Tensor, Tensor]) -> None:
    photo = torch.from_numpy(scene(astronaut))
    expected = find_faces(photo, *network)
    wide = torch.zeros(400, 1400, 4, dtype=torch.uint8)
    wide[:, ::2, :3] = photo
    assert torch.equal(find_faces(wide[:, ::2, :3], *network), expected)
    assert torch.equal(find_faces(photo, *network, threads=2), expected)
    results: list[Tensor] = []
    at_once(lambda _: results.append(find_faces(photo, *network)), 4)
    assert len(results) == 4
    assert all(torch.equal(result, expected) for result in results)


def test_without_upright(astronaut: ImageArray, network: tuple[Tensor, Tensor]) -> None:
    upside_down = np.ascontiguousarray(np.rot90(astronaut, 2))
    found = FaceDetector(upright=False).detect(upside_down)
    check(found, Reference(*network, upright=False).detect(upside_down))


@pytest.mark.parametrize("isa", available_isas())
def test_every_instruction_set(isa: str, astronaut: ImageArray, network: tuple[Tensor, Tensor]) -> None:
    photo = torch.from_numpy(scene(astronaut))
    expected = find_faces(photo, *network)
    with forced_isa(isa):
        torch.testing.assert_close(find_faces(photo, *network), expected, atol=0.02, rtol=1e-4)


def without_torch(
    program: list[str],
    isa: str,
    photo: ImageArray,
    network: tuple[Tensor, Tensor],
    folder: Path,
    callers: int,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Numbers and crops of the faces by ``csrc/tests/run_faces.cpp``."""
    for name, array in (("program", network[0].numpy()), ("weights", network[1].numpy()), ("pixels", photo)):
        array.tofile(folder / name)
    height, width = map(str, photo.shape[:2])
    paths = [str(folder / name) for name in ("program", "weights", "pixels")]
    command = [*program, paths[0], paths[1], isa, height, width, paths[2], str(callers)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr.decode()
    size = 15 * 8 + 112 * 112 * 3
    parts = [done.stdout[i : i + size] for i in range(0, len(done.stdout), size)]
    return [
        (np.frombuffer(part[:120], np.float64), np.frombuffer(part[120:], np.uint8).reshape(112, 112, 3))
        for part in parts
    ]


def the_program(kind: str) -> list[str]:
    """The command that runs ``csrc/tests/run_faces.cpp`` of a build."""
    if kind == "neon":
        compiler, emulator = tool("aarch64-linux-gnu-g++"), tool("qemu-aarch64")
        toolchain = f"-DCMAKE_TOOLCHAIN_FILE={ROOT / 'cmake' / 'aarch64-linux-gnu.cmake'}"
        libraries = Path(compiler).parent.parent / "aarch64-linux-gnu"
        prefix, folder = [emulator, "-L", str(libraries)], build("aarch64", toolchain, target="kernels_tests")
    elif kind == "threads":
        prefix, folder = thread_sanitizer_launcher(), thread_sanitized_build("run_faces")
    else:
        prefix, folder = [], sanitized_build() if kind == "sanitized" else release_build()
    return [*prefix, str(folder / "csrc" / "tests" / "run_faces")]


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("release", marks=pytest.mark.slow),
        pytest.param("sanitized", marks=pytest.mark.slow),
        pytest.param("threads", marks=pytest.mark.slow),
        pytest.param("neon", marks=pytest.mark.slow),
    ],
)
def test_without_torch(
    kind: str, astronaut: ImageArray, network: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    program = the_program(kind)
    photo = scene(astronaut)
    tilted = straightened(astronaut[:300, 100:400], 45)[0]
    for view in (photo, np.rot90(photo), tilted, photo[40:43]):
        picture = np.ascontiguousarray(view)
        # Under AddressSanitizer, AVX-512 is emulated, which takes its time.
        real = [isa for isa in available_isas() if kind != "sanitized" or isa != "avx512"]
        isa = "neon" if kind == "neon" else real[0]
        with forced_isa(real[0]):
            rows = find_faces(torch.from_numpy(picture), *network)
        rows = rows[rows[:, 15] == 0]
        found = without_torch(program, isa, picture, network, tmp_path, 3 if kind == "threads" else 1)
        assert len(found) == len(rows)
        # Another set rounds otherwise, and where it looks again follows from what it saw.
        pixels = 0.02 if isa in available_isas() else 0.1
        for (numbers, crop), row in zip(found, rows, strict=True):
            np.testing.assert_allclose(numbers, row[:15], atol=pixels)
            expected = align(picture, row[4:14].view(5, 2).numpy())
            assert np.abs(crop.astype(int) - expected).mean() < 0.5


def test_photos(shared_dir: Path, detector: FaceDetector, network: tuple[Tensor, Tensor]) -> None:
    """The main face of each is the same; of nine in ten, landmarks move by less than a hundredth of it."""
    paths = sorted((shared_dir / "data" / "photos").glob("*.jpg"))
    if not paths:
        pytest.skip(f"no photos in {shared_dir / 'data' / 'photos'}")
    reference = Reference(*network)
    distances = []
    for photo in map(read_image, paths):
        found, expected = detector.detect(photo)[0], reference.detect(photo)[0]
        distances.append(float(np.abs(found.landmarks - expected.landmarks).max()) / expected.size)
        np.testing.assert_allclose(found.box, expected.box, atol=0.1 * expected.size)
        assert found.doubt is None
    assert max(distances) < 0.1
    assert np.quantile(distances, 0.9) < 0.01


class TestErrors:
    def test_photos_of_another_kind(self, network: tuple[Tensor, Tensor]) -> None:
        for photo in (
            torch.zeros(8, 8, 3),
            torch.zeros(8, 8, dtype=torch.uint8),
            torch.zeros(8, 8, 4, dtype=torch.uint8),
            torch.zeros(0, 8, 3, dtype=torch.uint8),
        ):
            with pytest.raises(RuntimeError, match=r"find_faces: a photo must be uint8 \[H, W, 3\], got"):
                find_faces(photo, *network)

    def test_a_program_that_detects_nothing(self) -> None:
        import pocketnet_fast
        from pocketnet_fast.lowering import lower

        words, weights = lower(pocketnet_fast.create_model("pocketnet_s128", pretrained=True)).encode()
        photo = torch.zeros(64, 64, 3, dtype=torch.uint8)
        with pytest.raises(RuntimeError, match="find_faces: "):
            find_faces(photo, words, weights)

    def test_damage_and_threads(self, network: tuple[Tensor, Tensor]) -> None:
        photo = torch.zeros(64, 64, 3, dtype=torch.uint8)
        with pytest.raises(RuntimeError, match="find_faces: "):
            find_faces(photo, network[0][:20], network[1])
        with pytest.raises(RuntimeError, match="threads"):
            find_faces(photo, *network, threads=-1)


def test_opcheck(astronaut: ImageArray, network: tuple[Tensor, Tensor]) -> None:
    photo = torch.from_numpy(np.ascontiguousarray(astronaut[:300, 100:400]))
    torch.library.opcheck(torch.ops.pocketnet_fast.find_faces.default, (photo, *network, 0.7, True, 1))
