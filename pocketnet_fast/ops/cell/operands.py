"""What a call of ``pocketnet_fast::cell`` is given, for the kernels on CUDA: one entry an operation.

``csrc/plan/cell/structure.cpp`` checks the structure, for every device; here are the tensors' types and
devices, and which channels, parameters and moments an operation has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pocketnet_fast.ops.cell.structure import Kind, Operation, decode
from pocketnet_fast.ops.native import extension


@dataclass(frozen=True)
class Size:
    """The size of a state, without the images."""

    channels: int
    height: int
    width: int


@dataclass(frozen=True)
class Term:
    """An operation with its weights.

    An operation that treats every channel alone and reads several states has one term for each of them.

    Attributes:
        operation: What it is; its ``first_out`` is the term's own.
        source: The size of one of the states that it reads.
        out: Channels that it adds to its sum, of which ``height`` and ``width`` are those of its result.
        parameters: As the operation's, contiguous; the term's own channels.
        first_parameter: Index of the first of them among the call's.
        first_channel: The first channel of the operation's result, where a term is a part of that.
        first_moment: Where its channels lie in mean and variance, if it normalises.
    """

    operation: Operation
    source: Size
    out: int
    height: int
    width: int
    parameters: tuple[Tensor, ...]
    first_parameter: int
    first_channel: int
    first_moment: int

    @property
    def channels_in(self) -> int:
        """The channels of all states that it reads together."""
        return self.source.channels * self.operation.parts


@dataclass(frozen=True)
class Operands:
    """A call's: ``states`` are the inputs, then the sums."""

    images: int
    inputs: int
    states: tuple[Size, ...]
    terms: tuple[Term, ...]
    moments: int

    def of_sum(self, total: int) -> list[Term]:
        """The terms of a sum, in order."""
        return [term for term in self.terms if term.operation.sum == total]


def read(
    inputs: Sequence[Tensor], parameters: Sequence[Tensor], structure: Sequence[int], epsilon: Sequence[float]
) -> Operands:
    """Check a call as the CPU's operator does, in its words.

    Raises:
        RuntimeError: A tensor's dtype, shape or device, or an operation is not as ``cpu.cell`` describes.
    """
    for x in inputs:
        _check_float(x, inputs[0].device, "an input")
    try:
        sums = extension().cell_sums(
            [list(x.shape) for x in inputs], [list(p.shape) for p in parameters], structure, epsilon
        )
    except ValueError as error:
        raise RuntimeError(f"cell: {error}") from None
    images, states = inputs[0].shape[0], [Size(*x.shape[1:]) for x in inputs]
    states += [Size(*size) for size in sums]
    largest = max(size.height * size.width for size in states[: len(inputs)])
    require(images * largest < 2**30, "a state must have fewer than 2^30 pixels")
    terms: list[Term] = []
    first_parameter = moments = 0
    remaining = iter(epsilon)
    for described in decode(structure):
        kind = described.kind
        own = parameters[first_parameter : first_parameter + kind.parameters]
        for parameter, name in zip(own, kind.parameter_names, strict=True):
            _check_float(parameter, inputs[0].device, name)
        operation = replace(described, epsilon=next(remaining)) if kind.normalizes else described
        source = states[operation.first_state]
        terms += _terms(operation, source, [p.contiguous() for p in own], first_parameter, moments)
        first_parameter += len(own)
        moments += own[-1].shape[0] if kind.normalizes else 0
    return Operands(images, len(inputs), tuple(states), tuple(terms), moments)


def require(condition: bool, message: str) -> None:
    """Raise the operator's error unless a condition holds."""
    if not condition:
        raise RuntimeError(f"cell: {message}")


def _check_float(tensor: Tensor, device: torch.device, what: str) -> None:
    require(
        tensor.dtype == torch.float32 and tensor.device == device,
        f"{what} must be float32 on {device}, got {tensor.dtype} on {tensor.device}",
    )


def _terms(
    operation: Operation, source: Size, parameters: Sequence[Tensor], first_parameter: int, first_moment: int
) -> Iterator[Term]:
    """One operation's, of parameters that begin at ``first_parameter`` and moments at ``first_moment``."""
    height, width = -(-source.height // operation.stride), -(-source.width // operation.stride)
    if operation.kind is Kind.SEPARABLE:
        out = parameters[-1].shape[0]
        yield Term(operation, source, out, height, width, tuple(parameters), first_parameter, 0, first_moment)
        return
    for part in range(operation.parts):
        begin = part * source.channels
        end = begin + source.channels
        own = replace(
            operation,
            first_state=operation.first_state + part,
            parts=1,
            first_out=operation.first_out + begin,
        )
        yield Term(
            own,
            source,
            source.channels,
            height,
            width,
            tuple(p[begin:end] for p in parameters),
            first_parameter,
            begin,
            first_moment + begin,
        )
