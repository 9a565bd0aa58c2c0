"""The Triton kernels that train a cell against the float64 reference.

On the CPU under TRITON_INTERPRET=1, on CUDA without it. ``test_cell_triton.py`` runs these tests in processes
of their own, because Triton decides between its interpreter and its compiler once, when it is imported.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import cell_problems
import pytest
import torch
from cell_problems import (
    CELLS,
    NODE,
    RESIDUAL,
    SEPARABLE,
    TOLERANCE,
    UNSOUND,
    Problem,
    distance,
    mixed,
    problem,
    under_autocast,
)
from torch import Tensor, nn

from pocketnet_fast.models import fused_training
from pocketnet_fast.models.genotypes import Genotype
from pocketnet_fast.models.pocketnet import PocketNet
from pocketnet_fast.ops import triton_tuning
from pocketnet_fast.ops.cell import Kind, Operation, triton_operations, triton_tiles
from pocketnet_fast.ops.cell.reference import cell_reference
from pocketnet_fast.ops.cell.triton_launch import cell

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"


def enlarge_tiles(monkeypatch: pytest.MonkeyPatch, pixels: int) -> None:
    """Under the interpreter, which takes the same time for a tile of any size."""
    if INTERPRETED:
        larger = functools.partial(dataclasses.replace, pixels=pixels)
        for name in ("product_tiles", "lane_tiles"):
            tiles = getattr(triton_tiles, name)
            monkeypatch.setattr(triton_operations, name, lambda *a, t=tiles: larger(t(*a)))


@pytest.fixture(autouse=True)
def large_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tiles a program still, and several programs."""
    enlarge_tiles(monkeypatch, 512)


def moved(given: Problem) -> Problem:
    return Problem(
        [x.to(DEVICE) for x in given.inputs],
        [p.to(DEVICE) for p in given.parameters],
        given.operations,
        [g if g is None else g.to(DEVICE) for g in given.gradients],
    )


def evaluate(given: Problem) -> list[Tensor]:
    return cell_problems.evaluate(moved(given), cell)


def assert_agrees(given: Problem, tolerance: float = TOLERANCE) -> None:
    cell_problems.assert_agrees(moved(given), cell, tolerance)


def train_once(model: PocketNet, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings; all gradients; all running statistics."""
    model = copy.deepcopy(model).train()
    embedding = model(x)
    target = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(7))
    (embedding * target.to(embedding)).sum().backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    assert len(gradients) == len(list(model.parameters()))
    return embedding.detach(), torch.cat(gradients), torch.cat([b.flatten() for b in model.buffers()])


def test_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole network trains on the kernels, as closely to float64 as plain PyTorch."""
    enlarge_tiles(monkeypatch, 16384)
    chosen = fused_training._operator
    monkeypatch.setattr(fused_training, "_operator", lambda device: cell if INTERPRETED else chosen(device))
    # Without a maximum and with slopes of one: on which side of a kink a value lies is a matter of rounding.
    edges = [[("dw_conv_3x3", 0), ("avg_pool_3x3", 1)], [("skip_connect", 2), ("dw_conv_1x1", 0)]]
    torch.manual_seed(3)
    model = PocketNet(Genotype(edges, (2, 3), edges, (2, 3)), 4, 4, 16).to(DEVICE)
    for module in model.modules():
        if isinstance(module, nn.PReLU):
            nn.init.ones_(module.weight)
    x = torch.randn(4, 3, 112, 112, generator=torch.Generator().manual_seed(5)).to(DEVICE)
    model.fused = True
    found = train_once(model, x)
    model.fused = False
    eager = train_once(model, x)
    exact = train_once(copy.deepcopy(model).double(), x.double())
    for ours, theirs, true in zip(found, eager, exact, strict=True):
        assert distance(ours, true) < max(1e-5, 3.0 * distance(theirs, true))


@pytest.mark.parametrize("name", CELLS)
def test_cells(name: str) -> None:
    assert_agrees(CELLS[name])


def test_mixed_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which operations are computed together: those of every searched edge, and of no other."""
    launched: list[int] = []
    mixed_products = triton_operations.CellLaunches.mixed

    def counted(self: Any, edge: Any, *rest: Any) -> Any:
        launched.append(edge[0].operation.stride)
        return mixed_products(self, edge, *rest)

    monkeypatch.setattr(triton_operations.CellLaunches, "mixed", counted)
    five = mixed(0, 0)[:-1]
    for operations, width, images, expected in (
        # Two programs, one of several tiles.
        (mixed(0, 0), 17, 20, [1, 1]),
        ([*mixed(0, 0), *mixed(0, 0)], 9, 3, [1, 1]),
        (mixed(0, 0, 2), 12, 3, [2, 2]),
        (five, 12, 3, []),
    ):
        launched.clear()
        assert_agrees(problem(operations, [(width, 5, 4)], [width] * len(operations), images=images))
        assert launched == expected
    wide = [replace(o, first_out=3) if o.kind is SEPARABLE else o for o in mixed(0, 0)]
    launched.clear()
    evaluate(problem(wide, [(4, 3, 2)], [4] * len(wide)))
    assert not launched


def test_tiles_of_a_mixed_edge_have_all_its_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enlarge_tiles(monkeypatch, 128)  # Narrow tiles are candidates beside tiles of few pixels alone.
    monkeypatch.setenv("POCKETNET_CACHE", str(tmp_path))
    monkeypatch.setattr(triton_tuning.tables, "_tables", {})
    with (
        torch.autograd.set_multithreading_enabled(False),
        triton_tuning.tuning(lambda launch: launch.args[0].outer) as session,  # type: ignore[attr-defined]
    ):
        assert_agrees(problem(mixed(0, 0), [(20, 3, 2)], [20] * 7))
    (measured,) = session.measured.values()
    assert {tiles.outer for key, tiles in measured.items() if key.startswith("cell.mixed")} == {16}


def test_a_nan_in_a_mixed_edge() -> None:
    """It reaches what reads it: with a stride of 2, all windows but that of one pixel."""
    given = moved(problem(mixed(0, 0, 2), [(18, 6, 6)], [18] * 6))
    given.inputs[0][1, 4, 3, 3] = math.nan
    _, mean, variance = cell(given.inputs, given.parameters, given.operations)
    _, *expected = cell_reference(given.inputs, given.parameters, given.operations)
    assert 0 < mean.isfinite().sum() < mean.numel()
    for found, true in zip((mean, variance), expected, strict=True):
        assert torch.equal(found.isnan(), true.isnan())


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("kernel", "size"), [(1, (7, 5)), (3, (1, 9)), (5, (9, 6)), (7, (2, 3))])
def test_windows(kernel: int, stride: int, size: tuple[int, int]) -> None:
    # A large difference is as much a failure as a tap that is missing: few values may be normalised.
    assert_agrees(cell_problems.window(kernel, stride, size), tolerance=5e-5)


@pytest.mark.parametrize(("channels", "width"), [(1, 1), (130, 70)])
def test_channels(channels: int, width: int) -> None:
    """Fewer than a tile has, and more."""
    operations = [Operation(0, SEPARABLE, 0, kernel=3), Operation(1, Kind.AVG_POOL, 0, kernel=3)]
    assert_agrees(problem(operations, [(channels, 5, 3)], [width, channels], seed=channels))


def test_several_parts_of_pools_and_normalisations() -> None:
    operations = [
        Operation(0, Kind.NORMALIZE, 0, 2),
        Operation(0, Kind.MAX_POOL, 0, 3, kernel=3, first_out=5),
        Operation(1, Kind.AVG_POOL, 1, 2, kernel=3, first_out=2),
    ]
    assert_agrees(problem(operations, [(7, 5, 4)] * 3, [14, 21, 14]))


def test_parts_of_a_window() -> None:
    assert_agrees(problem([Operation(0, SEPARABLE, 0, 2, kernel=3)], [(9, 5, 4)] * 2, [17]))


def test_mean_far_from_zero() -> None:
    cell_problems.assert_moments_do_not_cancel(cell, DEVICE)


def test_zeros_and_ties() -> None:
    """PReLU's derivative at zero and a maximum's first pixel are torch's."""
    operations = [Operation(0, SEPARABLE, 0), Operation(1, Kind.MAX_POOL, 0, kernel=3)]
    given = problem(operations, [(17, 8, 8)], [17, 17])
    given.inputs[0].round_()
    assert (given.inputs[0] == 0).any()
    assert_agrees(given)


def test_gamma_beside_a_large_sum() -> None:
    given = problem([Operation(0, SEPARABLE, 0)], [(16, 9, 9)], [16])
    given.parameters[3][:4] = torch.tensor([1e-6, 0.0, -2.0, 0.05])
    given.parameters[4][:4] = torch.tensor([1.0, 0.5, 1.0, 3.0])
    assert_agrees(given)


def test_empty_batch() -> None:
    cell_problems.assert_empty_batch_is_empty(
        cell, moved(problem(NODE, [(16, 4, 4)] * 2, [16, 16], images=2))
    )


SMALL = problem(
    [
        Operation(0, SEPARABLE, 0, kernel=3),
        Operation(0, Kind.MAX_POOL, 1, kernel=3),
        Operation(0, RESIDUAL, 0),
        Operation(1, SEPARABLE, 2),
    ],
    [(16, 6, 5)] * 2,
    [16] * 4,
    images=20,
)
MIXED = problem(mixed(0, 0, 2), [(18, 7, 6)], [18] * 6, images=12)


def test_strides_and_layout() -> None:
    found = cell_problems.assert_strides_change_nothing(evaluate, SMALL)
    assert found[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("given", [SMALL, MIXED], ids=["small", "mixed"])
def test_equal_bits_and_nothing_read_before_it_is_written(
    given: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = evaluate(given)
    for name in ("empty", "empty_like"):
        made = getattr(torch, name)

        def poisoned(*sizes: Any, make: Any = made, **options: Any) -> Tensor:
            tensor: Tensor = make(*sizes, **options)
            return tensor.fill_(math.nan if tensor.is_floating_point() else 5)

        monkeypatch.setattr(triton_operations.torch, name, poisoned)
    for actual, true in zip(evaluate(given), clean, strict=True):
        assert torch.equal(actual, true)


def test_a_nan_reaches_the_whole_batch_and_no_other_channel() -> None:
    cell_problems.assert_a_nan_stays_in_its_channel(evaluate)


@pytest.mark.parametrize(
    ("given", "pointwise"), [(problem(NODE, [(16, 9, 9)] * 2, [16, 16], images=8), 2), (MIXED, 6)]
)
def test_autocast_is_as_good_as_eagers(given: Problem, pointwise: int) -> None:
    """Its type is that of the operands of products, in the backward pass as well, which runs outside it."""
    given = moved(given)
    found = cell_problems.evaluate(given, under_autocast(cell, DEVICE))
    full = cell_problems.evaluate(given, cell)
    eager = cell_problems.evaluate(given, under_autocast(cell_reference, DEVICE))
    expected = cell_problems.evaluate(given, cell_reference, torch.float64)
    for ours, exactly, theirs, true in zip(found, full, eager, expected, strict=True):
        assert ours.dtype == exactly.dtype
        # Sums of a batch's gradients cancel in front of a normalisation; there eager's error is luck as well.
        assert distance(ours, true) < max(1.5 * distance(theirs, true), 1e-6)
    by_pointwise = 3 + len(given.inputs) + pointwise
    assert distance(found[0], full[0].double()) > 1e-4
    assert distance(found[by_pointwise], full[by_pointwise].double()) > 1e-4


def test_second_derivative_is_refused() -> None:
    message = "once_differentiable|cannot be differentiated twice"
    cell_problems.assert_not_differentiated_twice(cell, moved(SMALL), message)


@pytest.mark.parametrize(("change", "message"), UNSOUND)
def test_unsound_operations(change: dict[str, Any], message: str) -> None:
    given = moved(CELLS["node"])
    operations = [replace(given.operations[0], **change), given.operations[1]]
    with pytest.raises(RuntimeError, match=re.escape(message)):
        cell(given.inputs, given.parameters, operations)


def test_bad_tensors() -> None:
    given = moved(CELLS["node"])
    x, parameters = given.inputs[0], given.parameters
    double = ([x.double(), x], parameters, f"an input must be float32 on {x.device}, got torch.float64")
    cell_problems.assert_bad_tensors_are_refused(cell, given, [double])
    if not INTERPRETED:
        with pytest.raises(RuntimeError, match=r"float32 on cuda:0, got torch\.float32 on cpu"):
            cell([x, x.cpu()], parameters, given.operations)


def test_tiles_that_were_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POCKETNET_CACHE", str(tmp_path))
    monkeypatch.setattr(triton_tuning.tables, "_tables", {})
    used: list[triton_tuning.Tiles] = []

    def spied(*arguments: Any) -> triton_tuning.Tiles:
        used.append(triton_tuning.tiles_of(*arguments))
        return used[-1]

    monkeypatch.setattr(triton_operations, "tiles_of", spied)
    rules = evaluate(SMALL)
    chosen = used.copy()
    used.clear()
    # The fewest pixels win.
    with (
        torch.autograd.set_multithreading_enabled(False),
        triton_tuning.tuning(lambda launch: launch.args[0].pixels) as session,  # type: ignore[attr-defined]
    ):
        evaluate(SMALL)
    # Two operations: products forwards and backwards, two gradients of weights, one of states.
    (measured,) = session.measured.values()
    assert len(measured) == 2 * 5
    used.clear()
    for ours, theirs in zip(evaluate(SMALL), rules, strict=True):
        assert distance(ours, theirs.double()) < 1e-4
    assert set(used) == set(measured.values()) != set(chosen)
