"""``compile``: recorded networks on every instruction set, and the module that users hold."""

from __future__ import annotations

import copy
import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import random_genotype, randomize_, relative_error
from recordings import Golden
from torch import Tensor, nn

import pocketnet_fast
from pocketnet_fast.data.records import RecordDataset
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.lowering.precision import choose_precision
from pocketnet_fast.models.pocketnet import PocketNet
from pocketnet_fast.ops import native

RECORDED = ["pocketnet_s128", "pocketnet_m256", "cifar_genotype_c16_l18_e128"]


def build(recorded: Golden) -> PocketNet:
    facts = recorded.metadata
    model = pocketnet_fast.create_model(
        "pocketnet",
        genotype=facts["genotype"],
        channels=int(facts["channels"]),
        layers=int(facts["layers"]),
        embedding_dim=int(facts["embedding"]),
    )
    model.load_state_dict(recorded.weights)
    assert isinstance(model, PocketNet)
    return model.eval()


def normalized(pixels: Tensor) -> Tensor:
    return ((pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5).contiguous()


@pytest.fixture(scope="module")
def model() -> PocketNet:
    return randomize_(PocketNet(random_genotype(7), 8, 4, 32), 7)


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randint(
        0, 256, (3, 112, 112, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", RECORDED)
def test_recorded_embeddings(isa: str, golden: Callable[[str], Golden], name: str) -> None:
    recorded = golden(name)
    fused = pocketnet_fast.compile(build(recorded))
    images = recorded.tensors["input_rgb_u8"]
    expected = recorded.tensors["embedding"]
    assert relative_error(fused(images), expected) < 1e-4
    assert relative_error(fused(normalized(images)), expected) < 1e-4


def test_same_outputs_as_the_module(model: PocketNet, pixels: Tensor) -> None:
    fused = pocketnet_fast.compile(model)
    assert isinstance(fused, torch.nn.Module)
    with torch.no_grad():
        expected = model(normalized(pixels))
    out = fused(normalized(pixels))
    assert out.shape == (3, 32)
    assert out.dtype == torch.float32
    assert relative_error(out, expected) < 1e-4
    assert relative_error(fused(pixels), expected) < 1e-4


def test_bgr(model: PocketNet, pixels: Tensor) -> None:
    swapped = pixels.flip(3).contiguous()
    assert torch.equal(
        pocketnet_fast.compile(model, color="bgr")(swapped), pocketnet_fast.compile(model)(pixels)
    )


def test_flip_is_the_sum_of_image_and_mirror(model: PocketNet, pixels: Tensor) -> None:
    fused = pocketnet_fast.compile(model)
    both = fused(pixels) + fused(pixels.flip(2))
    assert torch.equal(pocketnet_fast.compile(model, flip=True)(pixels), both)


def test_threads_follow_torch(model: PocketNet, pixels: Tensor) -> None:
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            assert torch.equal(
                pocketnet_fast.compile(model)(pixels), pocketnet_fast.compile(model, threads=2)(pixels)
            )
    finally:
        torch.set_num_threads(before)


def test_the_module_can_be_copied_saved_and_scripted(model: PocketNet, pixels: Tensor) -> None:
    fused = pocketnet_fast.compile(model)
    expected = fused(pixels)
    assert torch.equal(copy.deepcopy(fused)(pixels), expected)
    other = pocketnet_fast.compile(randomize_(copy.deepcopy(model), 8))
    assert not torch.equal(other(pixels), expected)
    other.load_state_dict(fused.state_dict())
    assert torch.equal(other(pixels), expected)
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(fused), buffer)
    buffer.seek(0)
    assert torch.equal(torch.jit.load(buffer)(pixels), expected)


def test_it_exports_and_compiles_as_one_operator(model: PocketNet, pixels: Tensor) -> None:
    fused = pocketnet_fast.compile(model)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(fused, (pixels,), dynamic_shapes=({0: batch},))
    assert torch.equal(program.module()(pixels[:2]), fused(pixels[:2]))


def test_the_model_may_change_afterwards(pixels: Tensor) -> None:
    model = randomize_(PocketNet(random_genotype(7), 8, 4, 32), 7)
    fused = pocketnet_fast.compile(model)
    expected = fused(pixels)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(fused(pixels), expected)


def test_repr_says_what_runs(isa: str, model: PocketNet) -> None:
    assert f"isa={isa}" in repr(pocketnet_fast.compile(model))
    assert "precision=fp32" in repr(pocketnet_fast.compile(model))


def test_half_precision_says_what_runs(bf16_isa: str, model: PocketNet, pixels: Tensor) -> None:
    fused = pocketnet_fast.compile(model, precision="bf16")
    assert f"precision=bf16, isa={bf16_isa}" in repr(fused)
    assert ("products of fp32" in repr(fused)) == (not native.multiplies_bf16(bf16_isa))
    assert "tile registers" not in repr(fused) or native.tiles_denied()
    assert relative_error(fused(pixels), pocketnet_fast.compile(model)(pixels)) < 0.1
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(fused), buffer)
    buffer.seek(0)
    assert torch.equal(torch.jit.load(buffer)(pixels), fused(pixels))


def test_half_precision_says_that_tiles_were_refused(
    model: PocketNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "tiles_denied", lambda: True)
    fused = pocketnet_fast.compile(model, precision="bf16")
    assert "refuses the CPU's tile registers" in repr(fused)
    assert "tile registers" not in repr(pocketnet_fast.compile(model))


def test_half_precision_and_onednn_share_a_thread(bf16_isa: str, model: PocketNet, pixels: Tensor) -> None:
    """Both use tile registers on a CPU that has them, and neither may find what the other left."""
    threads = torch.get_num_threads()
    a, b = torch.randn(2, 300, 300, generator=torch.Generator().manual_seed(0)).bfloat16()
    torch.set_num_threads(1)
    try:
        fused = pocketnet_fast.compile(model, precision="bf16", threads=1)
        product, embedding = a @ b, fused(pixels)
        for _ in range(3):
            assert torch.equal(a @ b, product)
            assert torch.equal(fused(pixels), embedding)
    finally:
        torch.set_num_threads(threads)
    assert relative_error(product, a.double() @ b.double()) < 0.01


@pytest.mark.slow
def test_half_precision_of_trained_weights_on_faces(bf16_isa: str, shared_dir: Path) -> None:
    if bf16_isa == "scalar":
        pytest.skip("takes minutes; the operator's tests cover it")
    faces = RecordDataset(shared_dir / "data" / "transfer")
    chosen = range(0, len(faces.labels), len(faces.labels) // 200)
    pixels = torch.from_numpy(np.stack([faces.image(i) for i in chosen]))
    network = pocketnet_fast.create_model("pocketnet_s128", pretrained=True)
    cosine = torch.cosine_similarity(
        pocketnet_fast.compile(network)(pixels), pocketnet_fast.compile(network, precision="bf16")(pixels)
    )
    assert float(cosine.mean()) > 0.9995
    assert float(cosine.min()) > 0.998


def test_auto_takes_the_fastest_that_is_faithful(
    model: PocketNet, pixels: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "pocketnet_fast")
    # No precision but fp32 has a cosine of 1 to it.
    fused = pocketnet_fast.compile(model, precision="auto", calibration=pixels, min_cosine=1.0)
    assert fused.precision == "fp32"
    said = caplog.text
    assert "precision fp32: the fastest whose cosine stays above 1.0 (fp32 " in said
    assert "bf16 " in said
    taken = []

    def build(precision: str) -> nn.Module:
        taken.append(precision)
        return Slow(0.02 if precision == "fp32" else 0.0)

    network, choice = choose_precision(build, pixels, 0.9)
    assert taken == ["fp32", "bf16"]
    assert choice.precision == "bf16"
    assert network.seconds == 0.0
    assert choice.milliseconds["fp32"] > choice.milliseconds["bf16"]


class Slow(nn.Module):
    """The same embedding for every image, after a while."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return torch.ones(len(x), 4)


def test_auto_renders_faces_if_it_has_none(model: PocketNet) -> None:
    assert pocketnet_fast.compile(model, precision="auto").precision in ("fp32", "bf16")


def test_auto_checks_its_options(model: PocketNet, pixels: Tensor) -> None:
    with pytest.raises(PocketNetError, match=r"min_cosine is 1\.5"):
        pocketnet_fast.compile(model, precision="auto", min_cosine=1.5)
    with pytest.raises(PocketNetError, match="at least one image"):
        pocketnet_fast.compile(model, precision="auto", calibration=pixels[:0])


REFUSED = [
    (torch.zeros(1, 3, 112, 112, dtype=torch.float64), r"got float64 \[1, 3, 112, 112\]"),
    (torch.zeros(1, 3, 112, 112, dtype=torch.float16), r"got float16"),
    (torch.zeros(1, 112, 112, 3), r"got float32 \[1, 112, 112, 3\]"),
    (torch.zeros(1, 3, 112, 112, dtype=torch.uint8), r"got uint8 \[1, 3, 112, 112\]"),
    (torch.zeros(3, 112, 112), r"got float32 \[3, 112, 112\]"),
    (torch.zeros(1, 3, 112, 112, device="meta"), "the input is on meta and the module on cpu"),
    ([[0.0]], "got list"),
]


@pytest.mark.parametrize(("x", "message"), REFUSED)
def test_what_a_module_refuses(model: PocketNet, x: Tensor, message: str) -> None:
    with pytest.raises(PocketNetError, match=message) as caught:
        pocketnet_fast.compile(model)(x)
    assert "\n" not in str(caught.value)


def test_a_module_that_was_moved_or_converted(model: PocketNet, pixels: Tensor) -> None:
    with pytest.raises(PocketNetError, match="the module was moved to meta"):
        pocketnet_fast.compile(model).to("meta")(pixels)
    with pytest.raises(PocketNetError, match=r"converted to torch\.float16"):
        pocketnet_fast.compile(model).half()(pixels)


def test_what_the_operator_refuses_is_the_callers_error(
    model: PocketNet, pixels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    fused = pocketnet_fast.compile(model)
    monkeypatch.setenv("PNF_FORCE_ISA", "mmx")
    native.force_isa("")
    try:
        with pytest.raises(PocketNetError, match=r"^instruction set 'mmx' is not available here"):
            fused(pixels)
    finally:
        monkeypatch.delenv("PNF_FORCE_ISA")
        native.force_isa("")
    fused.program[0] = 0
    with pytest.raises(PocketNetError, match=r"^run_plan: damaged program: [^\n]*$"):
        fused(pixels)


def test_options_are_checked(model: PocketNet) -> None:
    with pytest.raises(PocketNetError, match="'tpu'"):
        pocketnet_fast.compile(model, device="tpu")
    with pytest.raises(PocketNetError, match="'int4'"):
        pocketnet_fast.compile(model, precision="int4")
    for threads in (0, 1025, 2.5, True, "2"):
        with pytest.raises(PocketNetError, match=rf"threads is {threads!r}; expected a whole number from 1"):
            pocketnet_fast.compile(model, threads=threads)
    assert pocketnet_fast.compile(model, threads=np.int64(2)).threads == 2
    with pytest.raises(PocketNetError, match="'gray'"):
        pocketnet_fast.compile(model, color="gray")
    with pytest.raises(PocketNetError, match="iresnet18 has no fused form"):
        pocketnet_fast.compile(pocketnet_fast.create_model("iresnet18"))
