"""The Triton kernels of a lowered network against the float64 reference.

On the CPU under TRITON_INTERPRET=1, on CUDA without it. ``test_run_plan_triton.py`` runs these tests in
processes of their own, because Triton decides between its interpreter and its compiler once, when it is
imported.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import at_once, random_genotype, randomize_, relative_error
from recordings import Golden, load_repository, load_shared
from torch import Tensor
from triton import next_power_of_2

import pocketnet_fast
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.lowering import lower
from pocketnet_fast.models.pocketnet import PocketNet
from pocketnet_fast.ops import triton_tuning
from pocketnet_fast.ops.run_plan import triton_launch, triton_tiles
from pocketnet_fast.ops.run_plan.reference import run_plan_reference
from pocketnet_fast.ops.run_plan.triton_launch import PRECISIONS, decode, run_plan_triton, table_of

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
on_cuda = pytest.mark.skipif(INTERPRETED, reason="about CUDA")
TOLERANCE = 1e-4

# Channels below, beside and above the block of 16; embeddings that fill no tile; a tail of several tiles.
NETWORKS = [(4, 4, 16, 0), (10, 5, 33, 1)] + ([] if INTERPRETED else [(20, 4, 300, 2), (16, 18, 128, 3)])


@pytest.fixture(autouse=True)
def large_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """One tile for a whole state: the interpreter takes hardly longer for it than for a small one."""

    def tiles_for(shape: triton_tiles.Shape, pixels: int, dtype: torch.dtype) -> triton_tiles.Tiles:
        whole = min(8192, next_power_of_2(max(pixels, 16)))
        return dataclasses.replace(triton_tiles.tiles_for(shape, pixels, dtype), pixels=whole)

    if INTERPRETED:
        stem = dataclasses.replace(triton_tiles.stem_tiles(1), pixels=4096)
        monkeypatch.setattr(triton_launch, "tiles_for", tiles_for)
        monkeypatch.setattr(triton_launch, "stem_tiles", lambda *_: stem)


@functools.cache
def network(channels: int, layers: int, embedding: int, seed: int, nodes: int = 4) -> PocketNet:
    return randomize_(PocketNet(random_genotype(seed, nodes), channels, layers, embedding), seed)


def small() -> PocketNet:
    """For what is no matter of the kinds of steps: a run under the interpreter takes seconds."""
    return network(4, 4, 16, 1, nodes=1)


class Lowered:
    """A network's program, its weights, and the two ways to run it."""

    def __init__(self, model: PocketNet, color: str = "rgb") -> None:
        self.program, self.weights = lower(model, color=color, bands=False).encode()
        self.words = tuple(self.program.tolist())

    def run(self, pixels: Tensor, precision: str = "fp32", flip: bool = False) -> Tensor:
        weights = self.weights.to(DEVICE)
        table = table_of(decode(self.words)).to(DEVICE)
        matrices = weights.to(PRECISIONS[precision][0])
        moved = pixels.to(DEVICE) if pixels.device.type != DEVICE else pixels
        return run_plan_triton(moved, weights, matrices, table, self.words, precision, flip).cpu()

    def exact(self, pixels: Tensor, flip: bool = False) -> Tensor:
        return run_plan_reference(pixels, self.program, self.weights, flip=flip)


def images(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 112, 112, 3), dtype=torch.uint8, generator=generator)


def normalized(pixels: Tensor) -> Tensor:
    return ((pixels.permute(0, 3, 1, 2).float() - 127.5) / 127.5).contiguous()


@pytest.mark.parametrize(("channels", "layers", "embedding", "seed"), NETWORKS)
def test_random_genotypes(channels: int, layers: int, embedding: int, seed: int) -> None:
    lowered = Lowered(network(channels, layers, embedding, seed))
    pixels = images(1 if INTERPRETED and channels > 4 else 2)
    assert relative_error(lowered.run(pixels), lowered.exact(pixels)) < TOLERANCE


def test_float_input_of_any_strides() -> None:
    lowered = Lowered(small())
    x = normalized(images(1))
    spread = torch.zeros(1, 6, 112, 224)[:, ::2, :, ::2].copy_(x)
    result = lowered.run(x.contiguous(memory_format=torch.channels_last))
    assert relative_error(result, lowered.exact(x)) < TOLERANCE
    assert torch.equal(lowered.run(spread), result)


def test_colour_order_and_flip() -> None:
    model = small()
    bgr = Lowered(model, "bgr")
    expected = bgr.exact(images(1), flip=True)
    assert relative_error(bgr.run(images(1), flip=True), expected) < TOLERANCE
    turned = images(1).flip(3).flip(2)
    assert torch.equal(Lowered(model).run(turned, flip=True), bgr.run(turned.flip(3), flip=True))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_is_as_good_as_eagers(precision: str) -> None:
    model = network(10, 5, 33, 1, nodes=2 if INTERPRETED else 4)
    dtype = PRECISIONS[precision][0]
    pixels = images(1 if INTERPRETED else 2)
    exact = copy.deepcopy(model).double()(normalized(pixels).double()).detach()
    eager = copy.deepcopy(model).to(dtype)(normalized(pixels).to(dtype)).detach()
    ours = Lowered(model).run(pixels, precision)
    assert ours.dtype == torch.float32
    error = (ours.double() - exact).norm()
    assert float(error) < 1.5 * float((eager.double() - exact).norm())
    assert float(error) > 1e-6 * float(exact.norm())


def test_a_broken_pixel_stays_in_its_image() -> None:
    lowered = Lowered(small())
    x = normalized(images(2))
    clean = lowered.run(x)
    x[0, 2, 50, 60] = float("nan")
    broken = lowered.run(x)
    assert not broken[0].isfinite().any()
    assert torch.equal(broken[1], clean[1])


def test_nothing_is_read_before_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    lowered = Lowered(network(4, 4, 16, 0))
    clean = lowered.run(images(1))
    empty = torch.empty

    def poisoned(*sizes: Any, **options: Any) -> Tensor:
        return empty(*sizes, **options).fill_(float("nan"))

    monkeypatch.setattr(triton_launch.torch, "empty", poisoned)
    assert torch.equal(lowered.run(images(1)), clean)


def test_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    lowered = Lowered(small())
    together = lowered.run(images(3))
    assert lowered.run(images(0)).shape == (0, 16)
    monkeypatch.setattr(triton_launch, "_MAX_ARENA", 2 * decode(lowered.words).image)
    # The interpreter's products are a BLAS's, which may sum in another order for another number of rows.
    assert relative_error(lowered.run(images(3)), together) < 1e-5


def test_wrong_input() -> None:
    lowered = Lowered(small())
    message = r"run_plan_triton: input must be float32 \[N, 3, 112, 112\] or uint8"
    for pixels in (
        images(1).float(),
        normalized(images(1)).double(),
        normalized(images(1))[:, :, 1:],
        normalized(images(1))[0],
        images(1)[..., :2],
    ):
        with pytest.raises(RuntimeError, match=message):
            lowered.run(pixels)


# A whole network of the published size takes the interpreter a minute; both recordings are of the same steps.
@pytest.mark.parametrize("load", [load_repository] if INTERPRETED else [load_repository, load_shared])
def test_recorded(load: Callable[[str], Golden]) -> None:
    recorded = load("pocketnet_s128")
    count = 1 if INTERPRETED else 8
    model: Any = pocketnet_fast.create_model("pocketnet_s128")
    state = {k.removeprefix("weights."): v for k, v in recorded.tensors.items() if k.startswith("weights.")}
    model.load_state_dict(state)
    result = Lowered(model.eval()).run(recorded.tensors["input_rgb_u8"][:count])
    assert relative_error(result, recorded.tensors["embedding"][:count]) < TOLERANCE


@on_cuda
class TestGraphs:
    @pytest.fixture
    def model(self) -> PocketNet:
        return network(10, 5, 33, 1)

    @pytest.mark.parametrize("precision", [*PRECISIONS])
    def test_replayed_as_launched(self, model: PocketNet, precision: str) -> None:
        compiled = pocketnet_fast.compile(model, device="cuda", precision=precision)
        for count in (1, 2, 3, 5, 8):
            pixels = images(count, count)
            ours = compiled(pixels.cuda())
            assert torch.equal(ours.cpu(), Lowered(model).run(pixels, precision))
            assert torch.equal(
                compiled(normalized(pixels).cuda()).isfinite().all(), torch.tensor(True).cuda()
            )
        assert compiled(images(0).cuda()).shape == (0, 33)

    def test_results_outlive_the_next_call(self, model: PocketNet) -> None:
        compiled = pocketnet_fast.compile(model, device="cuda")
        first = compiled(images(2, 1).cuda())
        kept = first.clone()
        compiled(images(2, 2).cuda())
        assert torch.equal(first, kept)

    def test_more_images_than_a_graph(self, model: PocketNet, monkeypatch: pytest.MonkeyPatch) -> None:
        from pocketnet_fast.lowering import compiled_cuda

        monkeypatch.setattr(compiled_cuda, "MAX_GRAPH", 4)
        compiled = pocketnet_fast.compile(model, device="cuda")
        assert torch.equal(compiled(images(11).cuda()).cpu(), Lowered(model).run(images(11)))

    def test_streams_and_threads(self, model: PocketNet) -> None:
        compiled = pocketnet_fast.compile(model, device="cuda", flip=True)
        expected = [Lowered(model).run(images(3, seed), flip=True) for seed in range(4)]
        wrong: list[int] = []

        def call(seed: int) -> None:
            with torch.cuda.stream(torch.cuda.Stream()):
                for _ in range(10):
                    if not torch.equal(compiled(images(3, seed).cuda()).cpu(), expected[seed]):
                        wrong.append(seed)

        at_once(call, 4)
        assert not wrong

    def test_copies(self, model: PocketNet) -> None:
        compiled = pocketnet_fast.compile(model, device="cuda")
        expected = compiled(images(2).cuda())
        assert torch.equal(copy.deepcopy(compiled)(images(2).cuda()), expected)

    def test_inputs_elsewhere(self, model: PocketNet) -> None:
        compiled = pocketnet_fast.compile(model, device="cuda")
        with pytest.raises(RuntimeError, match="every tensor must be on one device"):
            compiled(images(1))


def test_programs_that_do_not_fit() -> None:
    banded = tuple(lower(small()).encode()[0].tolist())
    with pytest.raises(PocketNetError, match="the program has bands, which are for the CPU"):
        decode(banded)
    whole = Lowered(small()).words
    with pytest.raises(PocketNetError, match="no program of this version"):
        decode((*whole, 0))
    with pytest.raises(PocketNetError, match="no program of this version"):
        decode((whole[0] + 1, *whole[1:]))
    with pytest.raises(PocketNetError, match="ends too early"):
        decode((*whole[:2], 20, *whole[3:20]))


def test_tiles_that_were_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every node is measured once, and launched with what was chosen; by a timer that only takes notes."""
    monkeypatch.setenv("POCKETNET_CACHE", str(tmp_path))
    monkeypatch.setattr(triton_tuning.tables, "_tables", {})
    lowered = Lowered(small())
    shapes = {step.shape for step in decode(lowered.words).steps if step.shape}
    with triton_tuning.tuning(lambda launch: -launch.args[0].stages) as session:  # type: ignore[attr-defined]
        expected = lowered.run(images(1))
    (measured,) = session.measured.values()
    assert len(measured) == len(shapes)
    used: list[triton_tuning.Tiles] = []

    def spied(*arguments: Any) -> triton_tuning.Tiles:
        used.append(triton_tuning.tiles_of(*arguments))
        return used[-1]

    monkeypatch.setattr(triton_launch, "tiles_of", spied)
    assert torch.equal(lowered.run(images(1)), expected)
    assert set(used) == set(measured.values())
