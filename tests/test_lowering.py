"""Lowering loses nothing: the plan in float64 equals the module in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from helpers import random_genotype, randomize_, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketnet_fast import create_model
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.lowering import lower
from pocketnet_fast.lowering.arena import place
from pocketnet_fast.lowering.plan import Buffer, LinearStep, NodeStep, StemStep
from pocketnet_fast.models.counting import count_model
from pocketnet_fast.models.genotypes import Genotype
from pocketnet_fast.models.pocketnet import PocketNet
from pocketnet_fast.ops.run_plan.reference import run_plan_reference

# Folded in float64, stored in float32.
TOLERANCE = 5e-6


def lowered_error(model: PocketNet) -> float:
    pixels = (
        torch.rand(1, 3, 112, 112, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    )
    with torch.no_grad():
        expected = copy.deepcopy(model).double()(pixels)
    return relative_error(run_plan_reference(pixels, *lower(model).encode()), expected)


@pytest.mark.parametrize("seed", range(6))
def test_random_genotypes(seed: int) -> None:
    channels = (4, 6, 16, 17, 24, 32)[seed % 6]
    model = PocketNet(random_genotype(seed), channels, 4 + seed % 4, (16, 100, 512)[seed % 3])
    assert lowered_error(randomize_(model, seed)) < TOLERANCE


@pytest.mark.parametrize("nodes", [1, 2, 3, 6])
def test_cells_of_other_sizes(nodes: int) -> None:
    model = randomize_(PocketNet(random_genotype(nodes, nodes), 8, 5, 32), nodes)
    assert lowered_error(model) < TOLERANCE


def test_states_that_nothing_reads_are_not_computed() -> None:
    node = [("dw_conv_3x3", 0), ("skip_connect", 0)]
    unread = [("dw_conv_7x7", 1), ("max_pool_3x3", 1)]
    genotype = Genotype([node, unread, node], (2, 4), [node, unread, node], (2, 4))  # type: ignore[arg-type]
    model = randomize_(PocketNet(genotype, 8, 4, 32), 0)
    names = [step.name for step in lower(model).steps()]
    assert "cells.0.dag.0" in names
    assert "cells.0.dag.1" not in names
    assert not any("preproc1" in name for name in names)
    assert lowered_error(model) < TOLERANCE


def test_macs_are_those_of_the_module_less_the_folded_ones() -> None:
    model = create_model("pocketnet_s128")
    plan = lower(model)
    pixels: dict[str, int] = {}

    def record(name: str) -> Callable[..., None]:
        return lambda module, args, output: pixels.update({name: output.shape[2] * output.shape[3]})

    meta = copy.deepcopy(model).to("meta").eval()
    folded = {
        name: module
        for name, module in meta.named_modules()
        if isinstance(module, torch.nn.Conv2d) and module.groups > 1 and module.kernel_size == (1, 1)
    }
    for name, module in folded.items():
        module.register_forward_hook(record(name))
    meta(torch.empty(1, 3, 112, 112, device="meta"))
    saved = sum(pixels[name] * module.out_channels for name, module in folded.items())
    assert saved > 0
    assert plan.macs == count_model(model).total.macs - saved


def test_arena_and_program_of_pocketnet_s128() -> None:
    plan = lower(create_model("pocketnet_s128"))
    assert 4 * plan.arena_floats < 2 * 1024 * 1024
    program, weights = plan.encode()
    assert program.dtype == torch.int32
    assert program[2] == program.numel()
    assert weights.numel() == program[11]
    steps = list(plan.steps())
    assert isinstance(steps[0], StemStep)
    assert isinstance(steps[-1], LinearStep)
    widest = max(len(step.terms) for step in steps if isinstance(step, NodeStep))
    assert widest == 8, "a factorised reduction of a concatenation of four states"


def test_plan_prints_every_step() -> None:
    plan = lower(create_model("pocketnet_s128"))
    lines = str(plan).splitlines()
    assert len(lines) == len(list(plan.steps())) + 2
    assert lines[0].split() == ["group", "step", "operations", "output", "macs", "memory", "bytes"]
    assert any("cells.0.dag.1" in line and "dw 5x5" in line and "16x56x56" in line for line in lines)
    assert f"arena {4 * plan.arena_floats:,} bytes" in lines[-1]


def test_the_model_is_not_changed() -> None:
    model = randomize_(PocketNet(random_genotype(0), 8, 4, 32), 0)
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    lower(model)
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_what_cannot_be_lowered_is_named() -> None:
    with pytest.raises(PocketNetError, match="iresnet18 has no fused form"):
        lower(create_model("iresnet18"))
    with pytest.raises(PocketNetError, match="unknown channel order 'gray'"):
        lower(create_model("pocketnet_s128"), color="gray")
    nodes = [[("skip_connect", 0), ("skip_connect", 1)] for _ in range(9)]
    concat = tuple(range(2, 11))
    wide = PocketNet(Genotype(nodes, concat, nodes, concat), 4, 4, 16)  # type: ignore[arg-type]
    with pytest.raises(PocketNetError, match="sums 18 terms; the kernels take at most 16"):
        lower(wide)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 40), st.integers(1, 20), st.integers(0, 30), st.integers(0, 8)),
        min_size=1,
        max_size=30,
    )
)
def test_buffers_alive_together_lie_apart(drawn: list[tuple[int, int, int, int]]) -> None:
    buffers = [
        Buffer(str(i), channels, side, side, rows=side) for i, (channels, side, _, _) in enumerate(drawn)
    ]
    lifetimes = [(born, born + length) for _, _, born, length in drawn]
    size = place(buffers, lifetimes)
    for i, first in enumerate(buffers):
        assert first.offset >= 0
        assert first.offset + first.floats <= size
        for j in range(i):
            second = buffers[j]
            together = lifetimes[i][0] <= lifetimes[j][1] and lifetimes[j][0] <= lifetimes[i][1]
            apart = (
                first.offset + first.floats <= second.offset or second.offset + second.floats <= first.offset
            )
            assert apart or not together
