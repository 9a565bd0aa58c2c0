"""Cells with weights, inputs and gradients, and the judgement of what an implementation makes of them."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from pocketnet_fast.ops.cell import Kind, Operation
from pocketnet_fast.ops.cell.reference import cell_reference
from pocketnet_fast.ops.cell.structure import encode

SEPARABLE, RESIDUAL, SCALED = Kind.SEPARABLE, Kind.RESIDUAL, Kind.SCALED
Cell = Callable[[Sequence[Tensor], Sequence[Tensor], Sequence[Operation]], Any]

# Of a result's norm. Sums of up to some thousand products, normalised; eager float32 is as far off.
TOLERANCE = 5e-6


@dataclass(frozen=True)
class Problem:
    """A cell with weights and inputs, and the gradients of its sums (None: nothing depends on it)."""

    inputs: list[Tensor]
    parameters: list[Tensor]
    operations: Sequence[Operation]
    gradients: list[Tensor | None]


Evaluate = Callable[[Problem], list[Tensor]]


def problem(
    operations: Sequence[Operation],
    shapes: Sequence[tuple[int, int, int]],
    widths: Sequence[int],
    *,
    images: int = 3,
    seed: int = 0,
    unused: Sequence[int] = (),
) -> Problem:
    """Draw a cell with ``widths`` output channels per operation; the sums ``unused`` have no gradient."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    inputs = [normal(images, *shape) for shape in shapes]
    channels = [shape[0] for shape in shapes]
    parameters = []
    for operation, width in zip(operations, widths, strict=True):
        read = channels[operation.first_state] * operation.parts
        if operation.kind is SEPARABLE:
            kernel = operation.kernel
            parameters += [normal(read) * 0.4, normal(read, 1, kernel, kernel), normal(width, read, 1, 1)]
        if operation.kind is SCALED:
            parameters.append(normal(width))
        if operation.kind.normalizes:
            parameters += [1.0 + 0.3 * normal(width), normal(width)]
        if len(channels) == len(shapes) + operation.sum:
            channels.append(0)
        channels[-1] = max(channels[-1], operation.first_out + width)
    sums, _, _ = cell_reference(inputs, parameters, operations)
    gradients = [None if i in unused else normal(*s.shape) for i, s in enumerate(sums)]
    return Problem(inputs, parameters, operations, gradients)


def evaluate(given: Problem, function: Cell, dtype: torch.dtype | None = None) -> list[Tensor]:
    """Sums, moments, and the gradients of inputs and parameters, which are of their own types or of one."""
    inputs = [x.to(dtype or x.dtype).detach().requires_grad_() for x in given.inputs]
    parameters = [p.to(dtype or p.dtype).detach().requires_grad_() for p in given.parameters]
    sums, mean, variance = function(inputs, parameters, given.operations)
    chosen = [(s, g.to(s.dtype)) for s, g in zip(sums, given.gradients, strict=True) if g is not None]
    torch.autograd.backward([s for s, _ in chosen], [g for _, g in chosen])
    gradients = [torch.zeros_like(x) if x.grad is None else x.grad for x in inputs + parameters]
    return [s.detach() for s in sums] + [mean.detach(), variance.detach()] + gradients


def under_autocast(function: Cell, device: str) -> Cell:
    """A cell whose forward pass runs under autocast to bfloat16."""

    def call(*arguments: Any) -> Any:
        with torch.autocast(device, torch.bfloat16):
            return function(*arguments)

    return call


# Kernels, strides and sizes of images, which windows overlap in every way.
WINDOWS = list(itertools.product([1, 3, 5, 7], [1, 2], [(1, 9), (2, 3), (7, 7), (13, 30)]))


def window(kernel: int, stride: int, size: tuple[int, int]) -> Problem:
    operations = [Operation(0, SEPARABLE, 0, kernel=kernel, stride=stride)]
    return problem(operations, [(9, *size)], [17], images=8, seed=kernel)


def distance(actual: Tensor, expected: Tensor) -> float:
    return float((actual.double() - expected).norm() / (expected.norm() + 1e-300))


def assert_vanishes(ours: Tensor, eager: Tensor, true: Tensor, limit: float) -> None:
    """Of a gradient that is all rounding of products that cancel, as one weight's before a normalisation.

    How lucky eager's is depends on its number of threads.
    """
    limit = max(limit, 10.0 * float((eager.double() - true).norm()))
    assert float((ours.double() - true).norm()) < limit


def assert_agrees(given: Problem, function: Cell, tolerance: float = TOLERANCE) -> None:
    found = evaluate(given, function)
    expected = evaluate(given, cell_reference, torch.float64)
    eager = evaluate(given, cell_reference)
    largest = max(float(true.norm()) for true in expected)
    for ours, theirs, true in zip(found, eager, expected, strict=True):
        assert ours.shape == true.shape
        if float(true.norm()) < 1e-4 * largest:
            assert_vanishes(ours, theirs, true, 1e-6 * largest)
            continue
        assert distance(ours, true) < max(tolerance, 10.0 * distance(theirs, true))


NODE = [Operation(0, SEPARABLE, 0, kernel=3), Operation(0, SEPARABLE, 1)]


def mixed(total: int, state: int, stride: int = 1) -> list[Operation]:
    """All candidate operations of a searched edge but the strided skip connection."""
    pools = [Operation(total, kind, state, 1, 3, stride) for kind in (Kind.MAX_POOL, Kind.AVG_POOL)]
    filters = [Operation(total, SEPARABLE, state, 1, kernel, stride) for kernel in (3, 5, 7, 1)]
    return [*pools, *([Operation(total, SCALED, state)] if stride == 1 else []), *filters]


CELLS = {
    "node": problem(NODE, [(16, 14, 14)] * 2, [16, 16]),
    "preprocessing": problem([Operation(0, SEPARABLE, 0, parts=4)], [(16, 9, 11)] * 4, [16]),
    "narrow": problem([Operation(0, SEPARABLE, 0, parts=3)], [(5, 9, 11)] * 3, [3]),
    "wide": problem([Operation(0, SEPARABLE, 0, kernel=5)], [(70, 6, 7)], [83]),
    "reduce": problem(
        [Operation(0, SEPARABLE, 0, 2, 1, 2, 0, 0), Operation(0, SEPARABLE, 0, 2, 1, 2, 1, 7)],
        [(24, 8, 10)] * 2,
        [7, 9],
    ),
    "reduce_within_a_block": problem(
        [Operation(0, SEPARABLE, 0, 1, 1, 2, 0, 0), Operation(0, SEPARABLE, 0, 1, 1, 2, 1, 8)],
        [(16, 8, 6)],
        [8, 8],
    ),
    "chain": problem(
        [
            Operation(0, SEPARABLE, 0, kernel=3),
            Operation(0, SEPARABLE, 1),
            Operation(1, SEPARABLE, 2, kernel=5),
            Operation(1, RESIDUAL, 2),
            Operation(2, SEPARABLE, 3, kernel=7),
            Operation(2, RESIDUAL, 0),
        ],
        [(18, 15, 13)] * 2,
        [18] * 6,
        unused=[0],
    ),
    "pools": problem(
        [
            Operation(0, Kind.MAX_POOL, 0, kernel=3),
            Operation(0, Kind.AVG_POOL, 1, kernel=3),
            Operation(1, Kind.MAX_POOL, 2, kernel=3, stride=2),
            Operation(1, Kind.AVG_POOL, 0, kernel=3, stride=2),
            Operation(1, SEPARABLE, 1, kernel=3, stride=2),
        ],
        [(21, 9, 12)] * 2,
        [21] * 5,
    ),
    "searched": problem(
        [*mixed(0, 0), *mixed(0, 1), *mixed(1, 2), *mixed(1, 0), Operation(1, RESIDUAL, 1)],
        [(16, 7, 9)] * 2,
        [16] * 29,
    ),
    "searched_reduction": problem(
        [
            *mixed(0, 0, 2),
            Operation(0, SEPARABLE, 0, 1, 1, 2, 0, 0),
            Operation(0, SEPARABLE, 0, 1, 1, 2, 1, 10),
            *mixed(0, 1, 2),
            *mixed(1, 2),
            *mixed(1, 0, 2),
        ],
        [(20, 8, 10)] * 2,
        [20] * 6 + [10, 10] + [20] * 19,
    ),
    "normalize": problem([Operation(0, Kind.NORMALIZE, 0)], [(37, 8, 5)], [37]),
    "residuals": problem(
        [Operation(0, SEPARABLE, 0), Operation(1, RESIDUAL, 0), Operation(1, RESIDUAL, 1)],
        [(16, 5, 6)],
        [16] * 3,
    ),
    "scaled": problem(
        [
            Operation(0, SCALED, 1),
            Operation(0, SEPARABLE, 0, kernel=5),
            Operation(1, Kind.MAX_POOL, 0, kernel=3),
            Operation(1, SCALED, 2),
            Operation(1, RESIDUAL, 2),
            Operation(2, SCALED, 3),
        ],
        [(19, 7, 8)] * 2,
        [19] * 6,
    ),
    "scaled_only": problem([Operation(0, SCALED, 0)], [(16, 5, 6)], [16]),
    "residuals_only": problem(
        [Operation(0, RESIDUAL, 0), Operation(0, RESIDUAL, 1)], [(16, 5, 6)] * 2, [16, 16]
    ),
    "a_part_that_another_operation_reads": problem(
        [Operation(0, SEPARABLE, 1, kernel=3), Operation(1, SEPARABLE, 0, parts=3)],
        [(16, 6, 6)] * 2,
        [16, 20],
    ),
}

# Changes of a node's first operation that no kernel takes, and what is said of them.
UNSOUND: list[tuple[dict[str, Any], str]] = [
    ({"kernel": 4}, "kernel size must be odd"),
    ({"kernel": 9}, "kernel size is 9; it must lie in 1..7"),
    ({"stride": 3}, "stride is 3; it must lie in 1..2"),
    ({"offset": 1}, "offset is 1; it must lie in 0..0"),
    ({"first_state": 5}, "first state is 5; it must lie in 0..1"),
    ({"parts": 3}, "number of states is 3; it must lie in 1..2"),
    ({"sum": 2}, "sum is 2; it must lie in 0..0"),
    ({"first_out": -1}, "first output channel is -1"),
    ({"epsilon": 0.0}, "epsilon must be positive and finite"),
    ({"epsilon": math.nan}, "epsilon must be positive and finite"),
]


def assert_empty_batch_is_empty(run: Callable[..., Any], given: Problem) -> None:
    """Of no image there are no sums, no moments, and gradients of zeros for the parameters."""
    inputs = [x[:0].requires_grad_() for x in given.inputs]
    parameters = [p.requires_grad_() for p in given.parameters]
    (out,), mean, variance = run(inputs, parameters, given.operations)
    assert out.shape == (0, *given.inputs[0].shape[1:])
    assert not mean.any()
    assert not variance.any()
    out.sum().backward()
    assert all(x.grad is not None and x.grad.shape == x.shape for x in inputs)
    assert all(p.grad is not None and not p.grad.any() for p in parameters)


def assert_a_nan_stays_in_its_channel(evaluate: Evaluate) -> None:
    """It reaches the whole batch, as batch statistics have it; unused memory never shows."""
    given = problem([Operation(0, Kind.AVG_POOL, 0, kernel=3)], [(18, 6, 6)], [18])
    given.inputs[0][1, 4, 2, 2] = math.nan
    others = [c for c in range(18) if c != 4]
    out, _, _, by_input, *_ = evaluate(given)
    for result in (out, by_input):
        assert result[:, 4].isnan().all()
        assert torch.isfinite(result[:, others]).all()


def assert_moments_do_not_cancel(function: Cell, device: str) -> None:
    """A spread of 1 about 1000, in float32."""
    x = problem([Operation(0, Kind.NORMALIZE, 0)], [(20, 20, 20)], [20]).inputs[0].add(1000.0).to(device)
    parameters, operations = [x.new_ones(20), x.new_zeros(20)], [Operation(0, Kind.NORMALIZE, 0)]
    _, mean, variance = function([x], parameters, operations)
    _, true_mean, true_variance = cell_reference([x.double()], parameters, operations)
    assert distance(variance, true_variance) < 1e-6
    assert distance(mean, true_mean) < 1e-9


def assert_strides_change_nothing(evaluate: Evaluate, given: Problem) -> list[Tensor]:
    """Of tensors laid out in any way; returns the results."""
    x, other = given.inputs
    images, channels, height, width = x.shape
    wide = torch.full((images, 2 * channels, height, 2 * width), math.nan)
    wide[:, ::2, :, ::2] = x
    strided = Problem(
        [wide[:, ::2, :, ::2], other.contiguous(memory_format=torch.channels_last)],
        [p.repeat_interleave(2, 0)[::2] for p in given.parameters],
        given.operations,
        [g.transpose(2, 3).contiguous().transpose(2, 3) for g in given.gradients if g is not None],
    )
    assert not strided.inputs[0].is_contiguous()
    found = evaluate(strided)
    for actual, true in zip(found, evaluate(given), strict=True):
        assert torch.equal(actual, true)
    return found


def assert_not_differentiated_twice(function: Cell, given: Problem, message: str) -> None:
    inputs = [x.clone().requires_grad_() for x in given.inputs]
    sums, _, _ = function(inputs, given.parameters, given.operations)
    (gradient,) = torch.autograd.grad(sums[0].square().sum(), inputs[:1], create_graph=True)
    with pytest.raises(RuntimeError, match=message):
        gradient.sum().backward()


def assert_bad_tensors_are_refused(
    function: Cell, given: Problem, others: Sequence[tuple[list[Tensor], list[Tensor], str]]
) -> None:
    """Those that no device takes, and ``others``; ``given`` is a node."""
    (x, _), parameters, operations = given.inputs, given.parameters, given.operations
    refused = [
        *others,
        ([x[0], x], parameters, "inputs must be N, C, H, W with one N"),
        ([x[:2], x], parameters, "inputs must be N, C, H, W with one N"),
        ([x[:, :0], x], parameters, "channels is 0"),
        ([x[:, :, :5], x], parameters, "give 5 x 14 and 14 x 14 pixels"),
        ([x, x], parameters[:-1], "there are 9 parameters; the operations have more"),
        ([x, x], [*parameters, x], "there are 11 parameters; the operations have 10"),
        ([x, x], [parameters[0][1:], *parameters[1:]], "slope must have the shape [16], got [15]"),
        ([x, x], [*parameters[:2], parameters[2].double(), *parameters[3:]], "pointwise must be float32"),
        ([x, x, x], parameters, "no operation reads one of the inputs"),
    ]
    for inputs, given_parameters, message in refused:
        with pytest.raises(RuntimeError, match=re.escape(message)):
            function(inputs, given_parameters, operations)
    with pytest.raises(RuntimeError, match="a residual must have the channels of its sum"):
        function([x, x, x[:, :4]], parameters, [*operations, Operation(0, RESIDUAL, 2)])


def assert_registered_properly(state: torch.dtype) -> None:
    """torch's own checks of the operator, on states of a type."""
    for name in ("chain", "reduce", "pools"):
        structure, epsilon = encode(CELLS[name].operations)
        inputs = [x.to(state, copy=True).requires_grad_() for x in CELLS[name].inputs]
        parameters = [p.clone().requires_grad_() for p in CELLS[name].parameters]
        torch.library.opcheck(
            torch.ops.pocketnet_fast.cell.default,
            (inputs, parameters, structure, epsilon),
            test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
        )
