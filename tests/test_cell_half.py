"""The operator that trains a cell on bfloat16 states, against float64 and eager's own error."""

from __future__ import annotations

import math
from dataclasses import replace

import cell_problems
import pytest
import torch
from cell_problems import CELLS, NODE, SEPARABLE, Cell, Problem, distance, problem, under_autocast
from hypothesis import given, settings
from test_cell import cells
from torch import Tensor

from pocketnet_fast.ops.cell import Kind, Operation
from pocketnet_fast.ops.cell.cpu import cell
from pocketnet_fast.ops.cell.reference import cell_reference
from pocketnet_fast.ops.native import available_isas, forced_isa

# Of a result's norm: two roundings to bfloat16 of everything that it is made of. A tap of 7x7 that is missing
# in one of 32 channels is a fortieth.
ROUNDING = 2.0**-7


def evaluate(given_cell: Problem, function: Cell, *, exact: bool = False) -> list[Tensor]:
    """Sums, moments and gradients of rounded inputs and gradients; under autocast, or in float64."""
    inputs = [x.bfloat16() for x in given_cell.inputs]
    gradients = [g if g is None else g.bfloat16() for g in given_cell.gradients]
    rounded = replace(given_cell, inputs=inputs, gradients=gradients)
    if exact:
        return cell_problems.evaluate(rounded, function, torch.float64)
    return cell_problems.evaluate(rounded, under_autocast(function, "cpu"))


def assert_agrees(given_cell: Problem) -> None:
    """Each result as near to float64's as twice eager's, or as a rounding or two.

    Where a maximum is taken of a sum or a PReLU has a side of it, ours and eager's fall differently by
    rounding, and all results are judged by eager's worst.
    """
    found = evaluate(given_cell, cell)
    eager = evaluate(given_cell, cell_reference)
    true = evaluate(given_cell, cell_reference, exact=True)
    largest = max(float(t.norm()) for t in true)
    inputs = len(given_cell.inputs)
    decided = any(
        o.kind in (SEPARABLE, Kind.MAX_POOL) and o.first_state + o.parts > inputs
        for o in given_cell.operations
    )
    errors = [distance(e, t) for e, t in zip(eager, true, strict=True) if float(t.norm()) > 1e-3 * largest]
    for ours, theirs, wanted in zip(found, eager, true, strict=True):
        assert ours.shape == wanted.shape
        if float(wanted.norm()) < 1e-3 * largest:
            cell_problems.assert_vanishes(ours, theirs, wanted, 2e-3 * largest)
            continue
        eagers = max(errors) if decided else distance(theirs, wanted)
        assert distance(ours, wanted) < max(2.0 * eagers, ROUNDING)


@pytest.mark.parametrize("name", CELLS)
def test_cells(bf16_isa: str, name: str) -> None:
    assert_agrees(CELLS[name])


@pytest.mark.parametrize(("kernel", "stride", "size"), cell_problems.WINDOWS)
def test_windows(bf16_isa: str, kernel: int, stride: int, size: tuple[int, int]) -> None:
    assert_agrees(cell_problems.window(kernel, stride, size))


@pytest.mark.parametrize("channels", [1, 15, 16, 17, 31, 32, 33, 48, 64])
def test_channels(bf16_isa: str, channels: int) -> None:
    operations = [Operation(0, SEPARABLE, 0, kernel=3), Operation(0, SEPARABLE, 1, kernel=5)]
    assert_agrees(problem(operations, [(channels, 7, 9)] * 2, [33, 33], seed=channels))
    assert_agrees(problem(operations, [(20, 7, 9)] * 2, [channels, channels], seed=channels))


@settings(deadline=None, max_examples=25)
@given(given_cell=cells())
def test_random_cells_agree_on_every_isa(given_cell: Problem) -> None:
    """Sums of any operations, on every set as on the first, but for roundings that a maximum magnifies."""
    results = []
    for isa in available_isas("bf16"):
        with forced_isa(isa):
            results.append(evaluate(given_cell, cell)[: len(given_cell.gradients)])
    for other in results[1:]:
        assert all(distance(a, b.double()) < 0.1 for a, b in zip(other, results[0], strict=True))


def test_half_as_good_again_as_eager_at_the_networks_size(bf16_isa: str) -> None:
    """The middle result's error, at the size of the first cells and a batch of 8."""
    given_cell = problem(NODE, [(16, 56, 56)] * 2, [16, 16], images=8)
    found, eager = evaluate(given_cell, cell), evaluate(given_cell, cell_reference)
    true = evaluate(given_cell, cell_reference, exact=True)
    ratios = [
        distance(ours, wanted) / distance(theirs, wanted)
        for ours, theirs, wanted in zip(found, eager, true, strict=True)
    ]
    assert sorted(ratios)[len(ratios) // 2] < 1.0
    assert max(ratios) < 1.5


def test_types_and_layouts() -> None:
    inputs = [x.bfloat16().requires_grad_() for x in CELLS["node"].inputs]
    parameters = [p.clone().requires_grad_() for p in CELLS["node"].parameters]
    (out,), mean, variance = cell(inputs, parameters, CELLS["node"].operations)
    assert out.dtype == torch.bfloat16
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert mean.dtype == variance.dtype == torch.float64
    out.sum().backward()
    assert all(x.grad is not None and x.grad.dtype == torch.bfloat16 for x in inputs)
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in parameters)


def test_strides(bf16_isa: str) -> None:
    given_cell = CELLS["node"]
    inputs = [x.bfloat16() for x in given_cell.inputs]
    wide = torch.full((3, 32, 14, 28), math.nan, dtype=torch.bfloat16)
    wide[:, ::2, :, ::2] = inputs[0]
    expected = cell(inputs, given_cell.parameters, given_cell.operations)[0][0]
    found = cell([wide[:, ::2, :, ::2], inputs[1]], given_cell.parameters, given_cell.operations)[0][0]
    assert torch.equal(found, expected)


def test_empty_batch() -> None:
    inputs = [x[:0].bfloat16().requires_grad_() for x in CELLS["node"].inputs]
    (out,), mean, _ = cell(inputs, CELLS["node"].parameters, CELLS["node"].operations)
    assert (out.shape, out.dtype) == ((0, 16, 14, 14), torch.bfloat16)
    assert not mean.any()
    out.sum().backward()
    assert all(x.grad is not None and x.grad.shape == x.shape for x in inputs)


@pytest.mark.parametrize("name", ["chain", "reduce", "pools"])
def test_threads(bf16_isa: str, name: str) -> None:
    """The forward pass gives the same bits on any number of threads, the backward pass on an equal number."""
    before = torch.get_num_threads()
    states = len(CELLS[name].gradients) + 2
    try:
        torch.set_num_threads(1)
        alone = evaluate(CELLS[name], cell)
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            first, again = evaluate(CELLS[name], cell), evaluate(CELLS[name], cell)
            assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
            assert all(torch.equal(a, b) for a, b in zip(first[:states], alone[:states], strict=True))
    finally:
        torch.set_num_threads(before)


def test_a_nan_reaches_the_whole_batch_and_no_other_channel(bf16_isa: str) -> None:
    cell_problems.assert_a_nan_stays_in_its_channel(lambda given_cell: evaluate(given_cell, cell))


def test_opcheck() -> None:
    cell_problems.assert_registered_properly(torch.bfloat16)
