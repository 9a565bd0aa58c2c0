"""``pocketnet_fast::cell`` for CUDA, by the launches of ``triton_operations``.

Every operation of a sum writes its products and the moments of runs of tiles, one launch; a second combines
the moments; then one launch adds the sum's operations up. The candidate operations of a searched edge, which
read one state, share the first launch. Backwards, sum by sum from the last: the products are computed again,
with the sums of the gradient that their own gradient needs; then the weights' and the states' gradients,
which are gathered pixel by pixel. Nothing but states and moments lives longer than the operation. Products
are float32 by the ordinary units, or by the tensor cores where ``torch.backends.cuda.matmul.allow_tf32``
permits; autocast's type, where it is on, holds for the operands of matrix products and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pocketnet_fast.ops.cell.autograd import NAME, autocast_to, product_dtype, register
from pocketnet_fast.ops.cell.operands import read, require
from pocketnet_fast.ops.cell.structure import Kind, Operation, encode
from pocketnet_fast.ops.cell.triton_operations import CellLaunches, GradientSlice, SumProducts
from pocketnet_fast.ops.triton_numerics import INTERPRETED


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def forward(
    inputs: list[Tensor], parameters: list[Tensor], structure: list[int], epsilon: list[float]
) -> tuple[list[Tensor], Tensor, Tensor]:
    """The operator as ``cpu.cell`` describes it.

    Raises:
        RuntimeError: As on the CPU.
    """
    given = read(inputs, parameters, structure, epsilon)
    mean = torch.zeros(given.moments, dtype=torch.float64, device=inputs[0].device)
    variance = torch.zeros_like(mean)
    with torch.cuda.device_of(inputs[0]):
        cell = CellLaunches(given, [_channels_last(x) for x in inputs])
        for total in range(len(given.states) - given.inputs):
            if given.images == 0:
                size = given.states[given.inputs + total]
                empty = mean.new_empty((0, size.channels, size.height, size.width), dtype=torch.float32)
                cell.states.append(_channels_last(empty))
                continue
            terms = given.of_sum(total)
            values, vectors, source = [], [], SumProducts(cell, terms, mean)
            for term in terms:
                if not term.operation.kind.normalizes:
                    values.append(cell.states[term.operation.first_state])
                    vectors.append(term.parameters[0] if term.parameters else cell.none)
                    continue
                own = slice(term.first_moment, term.first_moment + term.out)
                products = source.of(term)
                values.append(products.values)
                vectors.append(cell.moments(term, products, mean[own], variance[own]))
            cell.states.append(cell.add(terms, values, vectors))
    return cell.states[given.inputs :], mean, variance


def backward(
    grads: list[Tensor],
    states: list[Tensor],
    parameters: list[Tensor],
    mean: Tensor,
    variance: Tensor,
    structure: list[int],
    epsilon: list[float],
) -> list[Tensor]:
    """Gradients of inputs and parameters; an empty vector in ``grads`` stands for one that is zero.

    Raises:
        RuntimeError: As ``forward``.
    """
    require(len(states) > len(grads), "states must be the inputs and the sums")
    given = read(states[: len(states) - len(grads)], parameters, structure, epsilon)
    require(
        len(given.states) == len(states),
        f"there are {len(grads)} gradients for {len(given.states) - given.inputs} sums",
    )
    for index, (state, size) in enumerate(zip(states, given.states, strict=True)):
        shape = given.images, size.channels, size.height, size.width
        require(tuple(state.shape) == shape, f"state {index} has the shape {list(state.shape)}")
        if index >= given.inputs:
            outer = grads[index - given.inputs]
            require(
                outer.dtype == torch.float32 and (outer.numel() == 0 or tuple(outer.shape) == shape),
                f"the gradient of sum {index - given.inputs} is {outer.dtype} {list(outer.shape)}",
            )
    results = [torch.zeros(p.shape, dtype=torch.float32, device=p.device) for p in parameters]
    with torch.cuda.device_of(states[0]):
        cell = CellLaunches(given, [_channels_last(x) for x in states])
        grad_states: list[Tensor | None] = [None] * len(states)
        for total in reversed(range(len(grads))):
            index = given.inputs + total
            grad, grad_states[index] = grad_states[index], None
            if grads[total].numel() > 0:
                outer = _channels_last(grads[total])
                grad = outer if grad is None else grad.add_(outer)
            if grad is None:
                continue
            terms = given.of_sum(total)
            source = SumProducts(cell, terms, mean, grad)
            for term in terms:
                o = term.operation
                if o.kind is Kind.RESIDUAL:
                    sources, accumulate = cell.gradient_of(o.first_state, grad_states)
                    sources.add_(grad) if accumulate else sources.copy_(grad)
                    continue
                channels = slice(term.first_moment, term.first_moment + term.out)
                own = [
                    results[term.first_parameter + i][term.first_channel :][: len(p)]
                    for i, p in enumerate(term.parameters)
                ]
                gradient = GradientSlice(grad, given.states[index].channels, o.first_out)
                cell.differentiate(
                    term, source.of(term), gradient, mean[channels], variance[channels], own, grad_states
                )
        found = [
            torch.zeros_like(state, memory_format=torch.channels_last) if grad is None else grad
            for state, grad in zip(states[: given.inputs], grad_states, strict=False)
        ]
    return found + results


class _Interpreted(torch.autograd.Function):
    """The operator on CPU tensors, where the dispatcher would choose the C++ kernels."""

    @staticmethod
    def forward(
        ctx: Any, inputs: int, structure: list[int], epsilon: list[float], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        given, parameters = list(tensors[:inputs]), list(tensors[inputs:])
        sums, mean, variance = forward(given, parameters, structure, epsilon)
        ctx.inputs, ctx.sums, ctx.structure, ctx.epsilon = inputs, len(sums), structure, epsilon
        ctx.product_dtype = product_dtype("cpu")
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*given, *sums, *parameters, mean, variance)
        return *sums, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        *tensors, mean, variance = ctx.saved_tensors
        states = ctx.inputs + ctx.sums
        given = [mean.new_empty(0, dtype=torch.float32) if g is None else g for g in grads[: ctx.sums]]
        with autocast_to(ctx.product_dtype, "cpu"):
            found = backward(
                given, tensors[:states], tensors[states:], mean, variance, ctx.structure, ctx.epsilon
            )
        return None, None, None, *found


def cell(
    inputs: Sequence[Tensor], parameters: Sequence[Tensor], operations: Sequence[Operation]
) -> tuple[list[Tensor], Tensor, Tensor]:
    """As ``cpu.cell``, on CUDA, or under Triton's interpreter on the CPU.

    Equal inputs give equal bits on equal devices. Where autocast is on for the device, its type is that of
    the operands of matrix products, in the backward pass of the call too; states, sums and moments are as
    without.

    Raises:
        RuntimeError: As on the CPU.
    """
    structure, epsilon = encode(operations)
    if INTERPRETED.value and inputs and inputs[0].device.type == "cpu":
        *sums, mean, variance = _Interpreted.apply(len(inputs), structure, epsilon, *inputs, *parameters)
        return sums, mean, variance
    sums, mean, variance = torch.ops.pocketnet_fast.cell(list(inputs), list(parameters), structure, epsilon)
    return sums, mean, variance


register()
torch.library.impl(NAME, "cuda", forward)
torch.library.impl(f"{NAME}_backward", "cuda", backward)
