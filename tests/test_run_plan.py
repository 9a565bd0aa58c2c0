"""The operator against its reference in float64, and its answers to bad input."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile

import pytest
import torch
from helpers import at_once, random_genotype, randomize_, relative_error
from torch import Tensor

import pocketnet_fast
from pocketnet_fast.lowering import lower
from pocketnet_fast.models.pocketnet import PocketNet
from pocketnet_fast.ops.native import processors
from pocketnet_fast.ops.run_plan import run_plan
from pocketnet_fast.ops.run_plan.reference import run_plan_reference

# Float32 sums of up to 2,048 terms through some sixty layers, against float64; eager float32 itself is 1e-6
# to 1e-5 off on such networks.
TOLERANCE = 1e-4

# Channel counts below, beside and above a multiple of the block of 16; depths that give every kind of
# pre-processing a place.
NETWORKS = [(16, 6, 128), (10, 4, 64), (20, 5, 33), (4, 7, 16), (32, 4, 512)]


@functools.cache
def encoded(
    channels: int, layers: int, embedding: int, seed: int, color: str = "rgb"
) -> tuple[Tensor, Tensor]:
    model = randomize_(PocketNet(random_genotype(seed), channels, layers, embedding), seed)
    return lower(model, color=color).encode()


def images(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 112, 112, 3), dtype=torch.uint8, generator=generator)


def normalized(pixels: Tensor) -> Tensor:
    return ((pixels.permute(0, 3, 1, 2).float() - 127.5) / 127.5).contiguous()


@functools.cache
def expected_of(channels: int, layers: int, embedding: int, seed: int) -> Tensor:
    return run_plan_reference(images(2, seed), *encoded(channels, layers, embedding, seed))


@pytest.fixture(scope="module")
def small() -> tuple[Tensor, Tensor]:
    return encoded(8, 4, 32, seed=3)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("channels", "layers", "embedding"), NETWORKS)
def test_random_genotypes(isa: str, channels: int, layers: int, embedding: int, seed: int) -> None:
    program, weights = encoded(channels, layers, embedding, seed)
    pixels = images(2, seed)
    expected = expected_of(channels, layers, embedding, seed)
    assert relative_error(run_plan(pixels, program, weights, embedding), expected) < TOLERANCE
    assert relative_error(run_plan(normalized(pixels), program, weights, embedding), expected) < TOLERANCE


@functools.cache
def half_of(
    channels: int, layers: int, embedding: int, seed: int
) -> tuple[tuple[Tensor, Tensor], Tensor, float]:
    """A program of half precision, what it computes but for rounding, and how far off eager bfloat16 is."""
    model = randomize_(PocketNet(random_genotype(seed), channels, layers, embedding), seed)
    program = lower(model, precision="bf16").encode()
    pixels = normalized(images(2, seed))
    with torch.no_grad():
        true = model.double()(pixels.double())
        eager = model.to(torch.bfloat16)(pixels.bfloat16())
    expected = run_plan_reference(pixels, *program)
    # The program's own weights, rounded, are a part of eager's error, too.
    assert relative_error(expected, true) < relative_error(eager, true)
    return program, expected, relative_error(eager, true)


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "layers", "embedding"), NETWORKS)
def test_half_precision(bf16_isa: str, channels: int, layers: int, embedding: int) -> None:
    """No further from exact sums of its weights than eager bfloat16 is from those of its own, on average."""
    errors, eagers = [], []
    for seed in range(3):
        program, expected, eager = half_of(channels, layers, embedding, seed)
        pixels = images(2, seed)
        for given in (pixels, normalized(pixels)):
            errors.append(relative_error(run_plan(given, *program, embedding), expected))
            eagers.append(eager)
    assert sum(errors) < sum(eagers)


def test_half_precision_on_threads_and_mirrored(bf16_isa: str) -> None:
    program, _, _ = half_of(16, 6, 128, 0)
    pixels = images(4)
    alone = run_plan(pixels, *program, 128, threads=1)
    mirrored = run_plan(pixels.flip(2), *program, 128, threads=1)
    for threads in (2, 3):
        assert torch.equal(run_plan(pixels, *program, 128, threads=threads), alone)
        flipped = run_plan(pixels, *program, 128, threads=threads, flip=True)
        assert torch.equal(flipped, alone + mirrored)


def test_half_precision_of_either_colour_order(bf16_isa: str) -> None:
    model = randomize_(PocketNet(random_genotype(5), 16, 4, 64), 5)
    rgb, bgr = (lower(model, color=color, precision="bf16").encode() for color in ("rgb", "bgr"))
    pixels = images(2)
    for flip in (False, True):
        embeddings = run_plan(pixels, *rgb, 64, flip=flip)
        assert torch.equal(run_plan(pixels.flip(3).contiguous(), *bgr, 64, flip=flip), embeddings)


def test_colour_order_and_flip(isa: str) -> None:
    program, weights = encoded(16, 4, 64, seed=5, color="bgr")
    pixels = images(3)
    expected = run_plan_reference(pixels, program, weights, flip=True)
    assert relative_error(run_plan(pixels, program, weights, 64, flip=True), expected) < TOLERANCE
    rgb, _ = encoded(16, 4, 64, seed=5)
    flipped = pixels.flip(3).contiguous()
    assert torch.equal(run_plan(flipped, rgb, weights, 64), run_plan(pixels, program, weights, 64))
    float_input = normalized(flipped)
    assert torch.equal(run_plan(float_input, rgb, weights, 64), run_plan(float_input, program, weights, 64))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("threads", [2, 3, 5])
def test_threads_change_nothing(isa: str, small: tuple[Tensor, Tensor], threads: int, flip: bool) -> None:
    pixels = images(4)
    alone = run_plan(pixels, *small, 32, threads=1, flip=flip)
    for size in (1, 2, 3, 4):
        together = run_plan(pixels[:size], *small, 32, threads=threads, flip=flip)
        assert torch.equal(together, alone[:size])


@pytest.mark.slow
def test_many_callers_at_once(isa: str, small: tuple[Tensor, Tensor]) -> None:
    pixels = images(6)
    expected = run_plan(pixels, *small, 32, threads=1)
    wrong: list[int] = []

    def call(index: int) -> None:
        for repeat in range(20):
            size = 1 + (index + repeat) % 6
            if not torch.equal(run_plan(pixels[:size], *small, 32, threads=1 + index % 3), expected[:size]):
                wrong.append(index)

    at_once(call, 6)
    assert not wrong


def test_strides(small: tuple[Tensor, Tensor]) -> None:
    pixels = images(4)
    expected = run_plan(pixels, *small, 32)
    padded = torch.zeros(4, 120, 130, 3, dtype=torch.uint8)
    padded[:, 3:115, 7:119] = pixels
    assert torch.equal(run_plan(padded[:, 3:115, 7:119], *small, 32), expected)
    assert torch.equal(run_plan(pixels[::2], *small, 32), expected[::2])
    float_input = normalized(pixels)
    planar = run_plan(float_input, *small, 32)
    channels_last = float_input.to(memory_format=torch.channels_last)
    assert torch.equal(run_plan(channels_last, *small, 32), planar)
    expanded = float_input[:1].expand(3, -1, -1, -1)
    assert torch.equal(run_plan(expanded, *small, 32), planar[:1].expand(3, -1))


def test_no_gradient_is_an_error(small: tuple[Tensor, Tensor]) -> None:
    pixels = normalized(images(1)).requires_grad_()
    embedding = run_plan(pixels, *small, 32)
    assert torch.equal(embedding, run_plan(pixels.detach(), *small, 32))
    with pytest.raises(RuntimeError, match="the fused kernels have no gradient"):
        embedding.sum().backward()


def test_empty_batch(small: tuple[Tensor, Tensor]) -> None:
    out = run_plan(torch.empty(0, 3, 112, 112), *small, 32)
    assert out.shape == (0, 32)
    assert out.dtype == torch.float32


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_pixels_stay_in_their_image(isa: str, small: tuple[Tensor, Tensor], value: float) -> None:
    clean = normalized(images(3))
    expected = run_plan(clean, *small, 32)
    spoiled = clean.clone()
    spoiled[1, 2, 50, 60] = value
    out = run_plan(spoiled, *small, 32)
    assert not out[1].isfinite().any()
    assert torch.equal(out[[0, 2]], expected[[0, 2]])
    assert torch.equal(run_plan(clean, *small, 32), expected)


def test_fake_and_schema(small: tuple[Tensor, Tensor]) -> None:
    from torch.library import opcheck

    program, weights = small
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    for pixels in (images(2), normalized(images(2)), images(0)):
        opcheck(
            torch.ops.pocketnet_fast.run_plan.default,
            (pixels, program, weights, 32, 1, False),
            test_utils=tests,
        )


BAD_INPUTS = [
    (torch.zeros(1, 3, 112, 112, dtype=torch.float64), r"float32 .*, got float64 \[1, 3, 112, 112\]"),
    (torch.zeros(1, 3, 112, 112, dtype=torch.bfloat16), r"float32 .*, got bfloat16"),
    (torch.zeros(1, 112, 112, 3, dtype=torch.int8), r"uint8 .*, got int8"),
    (torch.zeros(1, 3, 112, 112, dtype=torch.uint8), r"\[N, 112, 112, 3\].*got \[1, 3, 112, 112\]"),
    (torch.zeros(1, 112, 112, 3), r"\[N, 3, 112, 112\].*got \[1, 112, 112, 3\]"),
    (torch.zeros(3, 112, 112), r"got \[3, 112, 112\]"),
    (torch.zeros(1, 3, 111, 112), r"got \[1, 3, 111, 112\]"),
    (torch.zeros(1, 1, 112, 112), r"got \[1, 1, 112, 112\]"),
    (torch.zeros(()), r"got \[\]"),
]


@pytest.mark.parametrize(("pixels", "message"), BAD_INPUTS)
def test_bad_input_is_named(small: tuple[Tensor, Tensor], pixels: Tensor, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        run_plan(pixels, *small, 32)


def test_a_message_begins_with_the_operator(small: tuple[Tensor, Tensor]) -> None:
    """And holds no path of the machine that built the library."""
    for call in (
        lambda: run_plan(torch.zeros(1, 3, 111, 112), *small, 32),
        lambda: run_plan(images(1), small[0][:-1].clone(), small[1], 32),
        lambda: run_plan(images(1), small[0].long(), small[1], 32),
    ):
        with pytest.raises(RuntimeError) as caught:
            call()
        text = str(caught.value).partition("\n")[0]
        assert text.startswith("run_plan: ")
        assert ".cpp" not in text


def test_meta_beside_real_tensors(small: tuple[Tensor, Tensor]) -> None:
    """PyTorch asks for shapes as soon as one tensor is on ``meta``, and must not give memory for them."""
    program, weights = small
    for operands in (
        (images(1), program.to("meta"), weights.to("meta")),
        (images(1), program, weights.to("meta")),
        (images(1).to("meta"), program, weights),
    ):
        with pytest.raises(
            RuntimeError, match="run_plan: every tensor must be on one device, got cpu and meta"
        ):
            run_plan(*operands, 32)
    assert run_plan(images(1).to("meta"), program.to("meta"), weights.to("meta"), 32).shape == (1, 32)


def test_a_hostile_header_is_a_damaged_program(small: tuple[Tensor, Tensor]) -> None:
    """Whatever it states, it is refused before memory is asked for."""
    program, weights = small
    height, width, embedding, arena, band = 3, 4, 6, 9, 10
    most = 2**31 - 1
    for word, value in ((height, most), (width, most), (embedding, most), (arena, 2**28), (band, 2**30)):
        hostile = program.clone()
        hostile[word] = value
        asked = value if word == embedding else 32
        with pytest.raises(RuntimeError, match=r"^run_plan: damaged program: "):
            run_plan(images(1), hostile, weights, asked)


def test_no_more_threads_than_processors(small: tuple[Tensor, Tensor]) -> None:
    """Whatever is asked for, or torch says."""
    usable = processors()["usable"]
    command = (
        "import os, torch\n"
        "from pocketnet_fast.ops.run_plan import run_plan\n"
        "program, weights = torch.load(os.environ['OPERANDS'], weights_only=True)\n"
        "torch.set_num_threads(64)\n"
        "pixels = torch.zeros(3, 112, 112, 3, dtype=torch.uint8)  # on PyTorch's own threads\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "for threads in (0, 64):\n"
        "    run_plan(pixels, program, weights, 32, threads)\n"
        "print(len(os.listdir('/proc/self/task')) - before)"
    )
    with tempfile.NamedTemporaryFile() as file:
        torch.save(small, file.name)
        done = subprocess.run(
            [sys.executable, "-c", command],
            env={**os.environ, "OPERANDS": file.name},
            capture_output=True,
            text=True,
            check=True,
        )
    assert int(done.stdout) == usable - 1


def test_trimming_gives_back_what_calls_keep(small: tuple[Tensor, Tensor]) -> None:
    pixels = images(4)
    expected = run_plan(pixels, *small, 32)
    pocketnet_fast.trim_memory()
    assert pocketnet_fast.trim_memory() == 0
    assert torch.equal(run_plan(pixels, *small, 32), expected)
    kept = pocketnet_fast.trim_memory()
    assert 0 < kept < 2**24
    assert torch.ops.pocketnet_fast.trim_memory() == 0
    assert torch.equal(run_plan(pixels, *small, 32), expected)


def test_device_is_named(small: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(NotImplementedError, match="pocketnet_fast::run_plan"):
        torch.ops.pocketnet_fast.run_plan(
            torch.zeros(1, 3, 112, 112).to_sparse(), small[0].to_sparse(), small[1].to_sparse(), 32, 1, False
        )


def test_cuda_is_told_what_runs_there(small: tuple[Tensor, Tensor]) -> None:
    """What the dispatcher calls for CUDA tensors, here with tensors of another device than the CPU."""
    cuda = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    there = torch.empty(1, 3, 112, 112, device="meta")
    for pixels, program in ((there, small[0]), (torch.empty(1, 3, 112, 112), small[0].to("meta"))):
        with pytest.raises(RuntimeError, match=r"pocketnet export -o model.pt2 --device cuda"):
            torch.ops.pocketnet_fast.run_plan.default.redispatch(
                cuda, pixels, program, small[1], 32, 1, False
            )


def test_bad_constants_are_named(small: tuple[Tensor, Tensor]) -> None:
    program, weights = small
    pixels = images(1)
    with pytest.raises(RuntimeError, match=r"weights must be .* float32"):
        run_plan(pixels, program, weights.double(), 32)
    with pytest.raises(RuntimeError, match=r"program must be .* int32"):
        run_plan(pixels, program.long(), weights, 32)
    with pytest.raises(RuntimeError, match="another number of weights"):
        run_plan(pixels, program, weights[:-16].clone(), 32)
    with pytest.raises(RuntimeError, match="embeddings of 32, not 64"):
        run_plan(pixels, program, weights, 64)
    with pytest.raises(RuntimeError, match="threads"):
        run_plan(pixels, program, weights, 32, threads=-1)
    with pytest.raises(RuntimeError, match="damaged program"):
        run_plan(pixels, program[:-1].clone(), weights, 32)
    with pytest.raises(RuntimeError, match="damaged program"):
        run_plan(pixels, torch.zeros_like(program), weights, 32)
    newer = program.clone()
    newer[1] += 2
    with pytest.raises(RuntimeError, match=r"program of version \d+; this library runs"):
        run_plan(pixels, newer, weights, 32)


def test_damaged_programs_never_crash(small: tuple[Tensor, Tensor]) -> None:
    program, weights = small
    pixels = images(1)
    generator = torch.Generator().manual_seed(0)
    refused = 0
    for _ in range(500):
        damaged = program.clone()
        at = int(torch.randint(program.numel(), (), generator=generator))
        damaged[at] = int(torch.randint(-(2**31), 2**31, (), generator=generator))
        try:
            run_plan(pixels, damaged, weights, 32)
        except RuntimeError:
            refused += 1
    assert refused > 450
