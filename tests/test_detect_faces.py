"""YuNet: the published graph, its lowered form, and the operator that finds faces with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pocketnet_fast.data.images import read_image
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.lowering.yunet import lower_detector
from pocketnet_fast.models.yunet import STRIDES, YuNet, load_yunet
from pocketnet_fast.ops import native
from pocketnet_fast.ops.detect_faces import detect_faces
from pocketnet_fast.ops.detect_faces.reference import detect_faces_reference
from pocketnet_fast.ops.run_plan import run_plan
from pocketnet_fast.ops.run_plan.reference import run_plan_reference

SIZES = [(32, 32), (64, 96), (320, 256), (96, 608)]


@pytest.fixture(scope="module")
def model() -> YuNet:
    return load_yunet()


@pytest.fixture(scope="module")
def lowered(model: YuNet) -> tuple[Tensor, Tensor]:
    return lower_detector(model).encode()


@pytest.fixture(scope="module")
def portrait() -> Tensor:
    package = Path(pytest.importorskip("skimage").__file__).parent
    return torch.from_numpy(read_image(package / "data" / "astronaut.png"))


@pytest.fixture(params=native.available_isas("bf16"))
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    with native.forced_isa(request.param):
        yield request.param


def pixels_of(height: int, width: int) -> Tensor:
    return torch.randint(
        0, 256, (1, height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


def flat(maps: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([one.permute(0, 2, 3, 1).flatten(1) for one in maps], 1)


def eager(model: YuNet, pixels: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """The maps of RGB pixels."""
    exact = YuNet().to(dtype)
    exact.load_state_dict(model.state_dict())
    with torch.no_grad():
        return flat(exact(pixels.flip(-1).permute(0, 3, 1, 2).to(dtype)))


@pytest.mark.parametrize("size", SIZES)
def test_the_published_graph_is_the_module(yunet: Path, model: YuNet, size: tuple[int, int]) -> None:
    """What onnxruntime computes with the published file, within 1e-4 of boxes, landmarks and scores."""
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(yunet), options, ["CPUExecutionProvider"])
    pixels = pixels_of(*size)
    image = pixels.flip(-1).permute(0, 3, 1, 2).float().numpy()
    names = [output.name for output in session.get_outputs()]
    expected = dict(zip(names, session.run(names, {"input": image}), strict=True))
    program, weights = lower_detector(model, size=size).encode()
    results = run_plan(pixels, program, weights, int(program[6]))[0]
    at = 0
    for stride in STRIDES:
        count = size[0] // stride * (size[1] // stride)
        grid = results[at : at + 16 * count].view(count, 16)
        at += 16 * count
        parts = {
            "cls": grid[:, :1].sigmoid(),
            "obj": grid[:, 1:2].sigmoid(),
            "bbox": grid[:, 2:6],
            "kps": grid[:, 6:],
        }
        for name, found in parts.items():
            np.testing.assert_allclose(found, expected[f"{name}_{stride}"][0], rtol=0, atol=1e-4)
    assert at == len(results)


def test_the_shipped_weights_are_the_published_ones(yunet: Path, model: YuNet) -> None:
    for name, value in load_yunet(yunet).state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_another_graph_is_refused(tmp_path: Path) -> None:
    from onnx_files import write_embedder

    with pytest.raises(
        PocketNetError, match=r"is no YuNet: operation 1 is Conv\[8, 3, 8, 8, 1, 0\] of \[-1\]"
    ):
        load_yunet(write_embedder(tmp_path / "x.onnx"))


def test_a_changed_graph_is_refused(yunet: Path, tmp_path: Path) -> None:
    """The same convolutions, one of them fed from elsewhere."""
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(str(yunet))
    sums = [node for node in graph.graph.node if node.op_type == "Add"]
    sums[1].input[0] = sums[0].input[0]
    onnx.save(graph, str(tmp_path / "x.onnx"))
    with pytest.raises(PocketNetError, match=r"is no YuNet: operation \d+ is Add of"):
        load_yunet(tmp_path / "x.onnx")
    del graph.graph.node[-1]
    onnx.save(graph, str(tmp_path / "short.onnx"))
    with pytest.raises(PocketNetError, match="is no YuNet"):
        load_yunet(tmp_path / "short.onnx")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("size", SIZES)
def test_the_reference_reads_the_same_program(model: YuNet, precision: str, size: tuple[int, int]) -> None:
    """Its only error is that of weights in half precision."""
    pixels = pixels_of(*size)
    program, weights = lower_detector(model, size=size, precision=precision).encode()
    found, expected = run_plan_reference(pixels, program, weights), eager(model, pixels)
    bound = 1e-4 if precision == "fp32" else 1.0
    assert (found - expected).abs().max() < bound


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("size", SIZES)
def test_maps_on_every_instruction_set(model: YuNet, isa: str, precision: str, size: tuple[int, int]) -> None:
    """fp32 within 1e-4 of float64; half precision at most twice as far from it as eager in bfloat16."""
    pixels, exact = pixels_of(*size), eager(model, pixels_of(*size))
    program, weights = lower_detector(model, size=size, precision=precision).encode()
    found = run_plan(pixels, program, weights, int(program[6]), threads=1)
    assert torch.equal(found, run_plan(pixels, program, weights, int(program[6]), threads=2))
    error = (found - exact).abs()
    if precision == "fp32":
        assert error.max() < 1e-4
    else:
        theirs = (eager(model, pixels, torch.bfloat16) - exact).abs()
        assert error.square().mean().sqrt() < 2 * theirs.square().mean().sqrt()


@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_faces_are_those_of_the_reference(model: YuNet, portrait: Tensor, isa: str, color: str) -> None:
    """At sizes that are no multiples of 32, from any strides, in either channel order."""
    program, weights = lower_detector(model, color=color).encode()
    for height, width in ((512, 512), (301, 222), (33, 100), (1, 1)):
        image = portrait[:height, 90 : 90 + width]
        expected = detect_faces_reference(image, model.double(), 0.1)
        given = image if color == "rgb" else image.flip(-1)
        found = detect_faces(given, program, weights, 0.1)
        assert found.shape == expected.shape
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=5e-3)
        assert torch.equal(found, detect_faces(given.contiguous(), program, weights, 0.1, threads=2))
    model.float()


def test_crowds_are_suppressed_alike(model: YuNet, portrait: Tensor, lowered: tuple[Tensor, Tensor]) -> None:
    """Many faces, many overlapping candidates, limits on both."""
    rows = [torch.cat([portrait[:230, 90 + i : 320 + i : 2] for i in range(4)], 1)[::2] for _ in range(3)]
    crowd = torch.cat(rows)
    for least, overlap, most in ((0.5, 0.3, 1000), (0.02, 0.6, 1000), (0.02, 0.3, 9), (0.5, 0.3, 0)):
        for blend in (False, True):
            expected = detect_faces_reference(crowd, model, least, overlap, most, blend)
            found = detect_faces(crowd, *lowered, least, overlap, most, blend)
            assert found.shape == expected.shape
            torch.testing.assert_close(found, expected, rtol=0, atol=5e-3)
    assert len(detect_faces(crowd, *lowered)) == 12


def test_blended_landmarks_move_less(portrait: Tensor, lowered: tuple[Tensor, Tensor]) -> None:
    """With a grey value more here and there."""
    generator = torch.Generator().manual_seed(0)
    noisy = [
        (portrait.int() + torch.randint(-1, 2, portrait.shape, generator=generator)).clamp(0, 255).byte()
        for _ in range(12)
    ]
    spread = {
        blend: torch.stack([detect_faces(image, *lowered, blend=blend)[0, 4:14] for image in noisy])
        .std(0)
        .mean()
        for blend in (False, True)
    }
    assert spread[True] < spread[False]


def test_the_same_faces_as_opencv(yunet: Path, shared_dir: Path, lowered: tuple[Tensor, Tensor]) -> None:
    """On all photos, on some at other scales, and on a crowd of all: boxes, landmarks and scores."""
    cv2 = pytest.importorskip("cv2")
    photos = sorted((shared_dir / "data" / "photos").glob("*.jpg"))
    if not photos:
        pytest.skip(f"no photos in {shared_dir / 'data' / 'photos'}")
    opencv: Any = cv2.FaceDetectorYN.create(str(yunet), "", (320, 320), 0.7, 0.3, 1000)
    images = [cv2.imread(str(path)) for path in photos]
    scaled = [cv2.resize(image, None, fx=s, fy=s) for image in images[::8] for s in (0.5, 1.28, 2.3)]
    small = [cv2.resize(image, (112, 112)) for image in images]
    small += [image[:, ::-1] for image in small]
    crowd = np.concatenate([np.concatenate(small[i : i + 16], 1) for i in range(0, len(small), 16)])
    count = 0
    for image in [*images, *scaled, crowd, np.zeros((90, 70, 3), np.uint8)]:
        opencv.setInputSize((image.shape[1], image.shape[0]))
        expected = opencv.detect(image)[1]
        found = detect_faces(torch.from_numpy(image[:, :, ::-1].copy()), *lowered).numpy()
        assert len(found) == (0 if expected is None else len(expected))
        if len(found):
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
        count += len(found)
    assert count > 300


def test_no_face_in_nothing(lowered: tuple[Tensor, Tensor]) -> None:
    for value in (0, 128, 255):
        assert detect_faces(torch.full((77, 130, 3), value, dtype=torch.uint8), *lowered).shape == (0, 15)


def test_damaged_weights_find_no_face(portrait: Tensor, lowered: tuple[Tensor, Tensor]) -> None:
    """Neither NaN nor infinities are faces, and no number is turned into an integer that cannot hold it."""
    program, weights = lowered
    for value in (float("nan"), float("inf"), 3e38):
        assert len(detect_faces(portrait, program, torch.full_like(weights, value), 0.0)) == 0


def test_what_is_refused(model: YuNet, portrait: Tensor, lowered: tuple[Tensor, Tensor]) -> None:
    import pocketnet_fast
    from pocketnet_fast.lowering.networks import lower

    program, weights = lowered
    for image in (portrait.float(), portrait[None], portrait[:, :, :2], portrait[:0]):
        with pytest.raises(RuntimeError, match=r"detect_faces: a photo must be uint8 \[H, W, 3\], got"):
            detect_faces(image, program, weights)
    with pytest.raises(RuntimeError, match="its sides may be 4096 at most"):
        detect_faces(torch.zeros(1, 4097, 3, dtype=torch.uint8), program, weights)
    with pytest.raises(RuntimeError, match="the network takes images of 112 x 112 only"):
        network = pocketnet_fast.create_model("pocketnet", channels=2, layers=4)
        detect_faces(portrait, *lower(network).encode())
    with pytest.raises(RuntimeError, match="damaged program"):
        detect_faces(portrait, program[:-1].clone(), weights)
    with pytest.raises(RuntimeError, match=r"threads must lie in 0\.\.1024"):
        detect_faces(portrait, program, weights, threads=-1)
    with pytest.raises(PocketNetError, match="expected multiples of 32"):
        lower_detector(model, size=(100, 64))
    with pytest.raises(PocketNetError, match="unknown channel order"):
        lower_detector(model, color="gray")


def test_the_triton_kernels_say_that_they_run_pocketnets(lowered: tuple[Tensor, Tensor]) -> None:
    from pocketnet_fast.ops.run_plan.triton_launch import decode

    with pytest.raises(PocketNetError, match="the Triton kernels run PocketNets"):
        decode(tuple(lowered[0].tolist()))
