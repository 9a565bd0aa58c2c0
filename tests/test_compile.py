"""``compile``: recorded networks on every instruction set, and the module that users hold."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
from conftest import Golden
from helpers import random_genotype, randomize_, relative_error
from torch import Tensor

import pocketnet_fast
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.models.mobilefacenet import MobileFaceNet
from pocketnet_fast.models.pocketnet import PocketNet

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


def test_options_are_checked(model: PocketNet) -> None:
    with pytest.raises(PocketNetError, match="'tpu'"):
        pocketnet_fast.compile(model, device="tpu")
    with pytest.raises(PocketNetError, match="'int4'"):
        pocketnet_fast.compile(model, precision="int4")
    with pytest.raises(PocketNetError, match="threads is 0"):
        pocketnet_fast.compile(model, threads=0)
    with pytest.raises(PocketNetError, match="'gray'"):
        pocketnet_fast.compile(model, color="gray")
    with pytest.raises(PocketNetError, match="MobileFaceNet"):
        pocketnet_fast.compile(MobileFaceNet())
