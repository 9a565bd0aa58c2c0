"""The operator that trains a cell, against its reference in float64, and its answers to bad input."""

from __future__ import annotations

import re
from dataclasses import replace

import cell_problems
import pytest
import torch
from cell_problems import CELLS, NODE, SEPARABLE, TOLERANCE, UNSOUND, Problem, distance, problem
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pocketnet_fast.ops.cell import Kind, Operation
from pocketnet_fast.ops.cell.cpu import cell
from pocketnet_fast.ops.cell.reference import cell_reference
from pocketnet_fast.ops.cell.structure import decode, encode
from pocketnet_fast.ops.native import available_isas, force_isa, forced_isa


def evaluate(given: Problem) -> list[Tensor]:
    return cell_problems.evaluate(given, cell)


def assert_agrees(given: Problem, tolerance: float = TOLERANCE) -> None:
    cell_problems.assert_agrees(given, cell, tolerance)


@pytest.mark.parametrize("name", CELLS)
def test_cells(isa: str, name: str) -> None:
    assert_agrees(CELLS[name])


@pytest.mark.parametrize(("kernel", "stride", "size"), cell_problems.WINDOWS)
def test_windows(isa: str, kernel: int, stride: int, size: tuple[int, int]) -> None:
    # A large difference is as much a failure as a tap that is missing: few values may be normalised.
    assert_agrees(cell_problems.window(kernel, stride, size), tolerance=5e-5)


@pytest.mark.parametrize("channels", [1, 15, 16, 17, 31, 32, 33, 48, 64])
def test_channels(isa: str, channels: int) -> None:
    operations = [Operation(0, SEPARABLE, 0, kernel=3), Operation(0, SEPARABLE, 1, kernel=5)]
    assert_agrees(problem(operations, [(channels, 7, 9)] * 2, [33, 33], seed=channels))
    assert_agrees(problem(operations, [(20, 7, 9)] * 2, [channels, channels], seed=channels))


@st.composite
def cells(draw: st.DrawFn) -> Problem:
    """Cells of the search space: two inputs, some nodes of two edges, any operation, any size."""
    channels = draw(st.sampled_from([3, 8, 16, 20]))
    height, width = draw(st.integers(3, 12)), draw(st.integers(3, 12))
    operations = []
    for node in range(draw(st.integers(1, 4))):
        for _ in range(draw(st.integers(1, 3))):
            kind = draw(st.sampled_from(list(Kind)))
            source = draw(st.integers(0, node + 1))
            kernel = {SEPARABLE: draw(st.sampled_from([1, 3, 5, 7])), Kind.MAX_POOL: 3, Kind.AVG_POOL: 3}
            operations.append(Operation(node, kind, source, kernel=kernel.get(kind, 1)))
    read = {o.first_state for o in operations}
    last = operations[-1].sum
    operations += [Operation(last, SEPARABLE, i) for i in range(2) if i not in read]
    shape = (channels, height, width)
    return problem(
        operations,
        [shape, shape],
        [channels] * len(operations),
        images=draw(st.integers(1, 5)),
        seed=draw(st.integers(0, 1000)),
        unused=draw(st.sets(st.integers(0, last - 1), max_size=last)) if last else (),  # type: ignore[arg-type]
    )


@settings(deadline=None, max_examples=80)
@given(given_cell=cells(), threads=st.integers(1, 4), isa=st.sampled_from(available_isas()))
def test_random_cells(given_cell: Problem, threads: int, isa: str) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        # Normalising a handful of values, again and again, magnifies the rounding of float32: of what is
        # normalised already, gradients cancel but for a few ten-thousandths.
        with forced_isa(isa):
            assert_agrees(given_cell, tolerance=5e-4)
    finally:
        torch.set_num_threads(before)


def test_as_good_as_eager_at_the_networks_size(isa: str) -> None:
    """Per result, at the size of the first cells and a batch of 8; the reference is judged alike."""
    given_cell = problem(NODE, [(16, 56, 56)] * 2, [16, 16], images=8)
    found = evaluate(given_cell)
    eager = cell_problems.evaluate(given_cell, cell_reference)
    expected = cell_problems.evaluate(given_cell, cell_reference, torch.float64)
    for ours, theirs, true in zip(found, eager, expected, strict=True):
        assert distance(ours, true) <= max(2.0 * distance(theirs, true), 3e-7)


def test_gamma_beside_a_large_sum(isa: str) -> None:
    """Where a normalisation's weight is zero or small beside its bias, nothing is read from the sum."""
    for gamma, beta in ((1e-6, 1.0), (0.0, 0.5), (0.0, 0.0), (-2.0, 1.0), (0.05, 3.0)):
        given_cell = problem([Operation(0, SEPARABLE, 0, kernel=3)], [(16, 9, 9)], [16])
        given_cell.parameters[3][::3] = gamma
        given_cell.parameters[4][::3] = beta
        assert_agrees(given_cell)


def test_mean_far_from_zero(isa: str) -> None:
    cell_problems.assert_moments_do_not_cancel(cell, "cpu")


def test_zeros_and_ties(isa: str) -> None:
    """PReLU's derivative at zero and a maximum's first pixel are torch's."""
    operations = [
        Operation(0, SEPARABLE, 0, kernel=3),
        Operation(0, SEPARABLE, 0),
        Operation(1, Kind.MAX_POOL, 0, kernel=3),
    ]
    given_cell = problem(operations, [(17, 8, 8)], [17, 17, 17])
    given_cell.inputs[0].round_()
    assert (given_cell.inputs[0] == 0).any()
    assert_agrees(given_cell)


def test_empty_batch() -> None:
    cell_problems.assert_empty_batch_is_empty(cell, problem(NODE, [(16, 4, 4)] * 2, [16, 16], images=2))


def test_strides(isa: str) -> None:
    cell_problems.assert_strides_change_nothing(evaluate, CELLS["node"])


def test_results_are_channels_last() -> None:
    given_cell = CELLS["node"]
    inputs = [x.clone().requires_grad_() for x in given_cell.inputs]
    (out,), _, _ = cell(inputs, given_cell.parameters, given_cell.operations)
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["chain", "reduce", "pools"])
def test_threads(isa: str, name: str) -> None:
    """The forward pass gives the same bits on any number of threads, the backward pass on an equal number."""
    before = torch.get_num_threads()
    given_cell = CELLS[name]
    states = len(given_cell.gradients) + 2
    try:
        torch.set_num_threads(1)
        alone = evaluate(given_cell)
        for threads in (2, 3, 7):
            torch.set_num_threads(threads)
            first, again = evaluate(given_cell), evaluate(given_cell)
            assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
            assert all(torch.equal(a, b) for a, b in zip(first[:states], alone[:states], strict=True))
            assert_agrees(given_cell)
    finally:
        torch.set_num_threads(before)


def test_isas_differ_in_rounding_only() -> None:
    results = []
    for isa in available_isas():
        with forced_isa(isa):
            results.append(evaluate(CELLS["chain"]))
    for other in results[1:]:
        assert all(distance(a, b.double()) < TOLERANCE for a, b in zip(other, results[0], strict=True))


def test_a_nan_reaches_the_whole_batch_and_no_other_channel(isa: str) -> None:
    cell_problems.assert_a_nan_stays_in_its_channel(evaluate)


def test_opcheck() -> None:
    cell_problems.assert_registered_properly(torch.float32)


def test_structure_is_read_back() -> None:
    operations = CELLS["pools"].operations
    assert decode(encode(operations)[0]) == list(operations)


def test_second_derivative_is_refused() -> None:
    message = "cannot be differentiated twice; set fused=False"
    cell_problems.assert_not_differentiated_twice(cell, CELLS["node"], message)


def test_gradcheck_of_the_reference() -> None:
    given_cell = problem(
        [
            Operation(0, SEPARABLE, 0, kernel=3),
            Operation(1, Kind.AVG_POOL, 2, kernel=3),
            Operation(1, SEPARABLE, 1),
        ],
        [(2, 3, 3)] * 2,
        [2, 2, 2],
        images=2,
    )
    inputs = [x.double().requires_grad_() for x in given_cell.inputs]
    parameters = [p.double().requires_grad_() for p in given_cell.parameters]

    def sums(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(cell_reference(tensors[:2], tensors[2:], given_cell.operations)[0])

    assert torch.autograd.gradcheck(sums, (*inputs, *parameters))


@pytest.mark.parametrize(("change", "message"), UNSOUND)
def test_unsound_operations(change: dict[str, int], message: str) -> None:
    given_cell = CELLS["node"]
    operations = [replace(given_cell.operations[0], **change), given_cell.operations[1]]
    with pytest.raises(RuntimeError, match=re.escape(message)):
        cell(given_cell.inputs, given_cell.parameters, operations)


def test_bad_tensors() -> None:
    given_cell = CELLS["node"]
    x, parameters = given_cell.inputs[0], given_cell.parameters
    others = [
        ([x.double(), x], parameters, "an input must be float32 or bfloat16 on the CPU, got float64"),
        ([x, x.bfloat16()], parameters, "an input is bfloat16, and the first input is not"),
        ([x.bfloat16()] * 2, [p.bfloat16() for p in parameters], "slope must be float32"),
        ([], parameters, "there is no input"),
    ]
    cell_problems.assert_bad_tensors_are_refused(cell, given_cell, others)


@pytest.mark.parametrize("shape", [(65536, 32768), (8193, 8192)])
def test_more_pixels_than_the_kernels_count(shape: tuple[int, int]) -> None:
    """2^31 pixels would come back as memory that nothing wrote."""
    image = torch.zeros(()).expand(1, 1, *shape)
    node = CELLS["node"]
    with pytest.raises(RuntimeError, match=f"an input's pixels is {shape[0] * shape[1]}; it must lie in"):
        cell([image, image], node.parameters, node.operations)


def test_meta_beside_real_tensors() -> None:
    node = CELLS["node"]
    with pytest.raises(RuntimeError, match="cell: every tensor must be on one device, got cpu and meta"):
        cell(node.inputs, [node.parameters[0].to("meta"), *node.parameters[1:]], node.operations)
    sums, _, _ = cell(
        [x.to("meta") for x in node.inputs], [p.to("meta") for p in node.parameters], node.operations
    )
    assert sums[0].device.type == "meta"


def test_unknown_isa_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PNF_FORCE_ISA", "sse9")
    force_isa("")
    try:
        with pytest.raises(RuntimeError, match="instruction set 'sse9' is not available"):
            evaluate(CELLS["node"])
    finally:
        monkeypatch.delenv("PNF_FORCE_ISA")
        force_isa("")
