"""What a call of ``pocketnet_fast::cell`` is given, checked, one entry an operation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from pocketnet_fast.ops.cell.structure import Kind, Operation, decode

_LARGEST: Final = 1 << 16


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
    return _Reader(inputs, parameters, structure, epsilon).operands()


def require(condition: bool, message: str) -> None:
    """Raise the operator's error unless a condition holds."""
    if not condition:
        raise RuntimeError(f"cell: {message}")


def _between(value: int, low: int, high: int, what: str) -> None:
    require(low <= value <= high, f"{what} is {value}; it must lie in {low}..{high}")


class _Reader:
    def __init__(
        self,
        inputs: Sequence[Tensor],
        parameters: Sequence[Tensor],
        structure: Sequence[int],
        epsilon: Sequence[float],
    ) -> None:
        require(len(inputs) > 0, "there is no input")
        require(
            len(structure) > 0 and len(structure) % 8 == 0,
            f"structure must hold eight numbers an operation, got {len(structure)}",
        )
        for kind in structure[1::8]:
            _between(kind, 0, len(Kind) - 1, "an operation's kind")
        self.device = inputs[0].device
        self.parameters, self.epsilon = parameters, epsilon
        self.inputs = len(inputs)
        self.states: list[Size] = []
        for x in inputs:
            self.check_float(x, "an input")
            require(
                x.dim() == 4 and x.shape[0] == inputs[0].shape[0],
                f"inputs must be N, C, H, W with one N, got {list(x.shape)}",
            )
            for value, what in zip(
                x.shape[1:],
                ("the number of an input's channels", "an input's height", "an input's width"),
                strict=True,
            ):
                _between(value, 1, _LARGEST, what)
            self.states.append(Size(*x.shape[1:]))
        self.images = inputs[0].shape[0]
        largest = max(size.height * size.width for size in self.states)
        require(self.images * largest < 2**30, "a state must have fewer than 2^30 pixels")
        self.terms: list[Term] = []
        self.next_parameter = self.moments = self.normalized = 0
        read_inputs: set[int] = set()
        for operation in decode(structure):
            self.add(operation)
            read_inputs.update(range(operation.first_state, operation.first_state + operation.parts))
        for term in self.terms:
            if term.operation.kind is Kind.RESIDUAL:
                own = self.states[self.inputs + term.operation.sum].channels
                require(term.out == own, "a residual must have the channels of its sum")
        require(read_inputs >= set(range(self.inputs)), "no operation reads one of the inputs")
        require(
            self.next_parameter == len(parameters),
            f"there are {len(parameters)} parameters; the operations have {self.next_parameter}",
        )
        require(
            self.normalized == len(epsilon),
            f"there are {len(epsilon)} values of epsilon; the normalised operations are {self.normalized}",
        )

    def operands(self) -> Operands:
        return Operands(self.images, self.inputs, tuple(self.states), tuple(self.terms), self.moments)

    def check_float(self, tensor: Tensor, what: str) -> None:
        require(
            tensor.dtype == torch.float32 and tensor.device == self.device,
            f"{what} must be float32 on {self.device}, got {tensor.dtype} on {tensor.device}",
        )

    def parameter(self, what: str, shape: Sequence[int] | None = None) -> Tensor:
        require(
            self.next_parameter < len(self.parameters),
            f"there are {len(self.parameters)} parameters; the operations have more",
        )
        found = self.parameters[self.next_parameter]
        self.next_parameter += 1
        self.check_float(found, what)
        if shape is not None:
            require(
                list(found.shape) == list(shape),
                f"{what} must have the shape {list(shape)}, got {list(found.shape)}",
            )
        return found.contiguous()

    def add(self, o: Operation) -> None:
        sums = len(self.states) - self.inputs
        _between(o.sum, max(sums - 1, 0), sums, "an operation's sum")
        before = self.inputs + o.sum
        _between(o.first_state, 0, before - 1, "an operation's first state")
        _between(o.parts, 1, before - o.first_state, "an operation's number of states")
        source = self.states[o.first_state]
        require(
            all(self.states[o.first_state + part] == source for part in range(o.parts)),
            "the states that an operation reads must have one shape",
        )
        channels = o.parts * source.channels
        _between(channels, 1, _LARGEST, "the number of an operation's input channels")
        self.check_window(o, source)
        first_parameter, parameters, out = self.next_parameter, [], channels
        if o.kind is Kind.SEPARABLE:
            parameters = [
                self.parameter("slope", [channels]),
                self.parameter("depthwise", [channels, 1, o.kernel, o.kernel]),
                self.parameter("pointwise"),
            ]
            shape = parameters[2].shape
            require(
                len(shape) == 4 and list(shape[1:]) == [channels, 1, 1],
                f"pointwise must have the shape channels_out, {channels}, 1, 1, got {list(shape)}",
            )
            out = shape[0]
            _between(out, 1, _LARGEST, "the number of an operation's output channels")
        elif o.kind is Kind.SCALED:
            parameters = [self.parameter("scale", [channels])]
        if o.kind.normalizes:
            parameters += [self.parameter("gamma", [out]), self.parameter("beta", [out])]
            given = self.epsilon[self.normalized] if self.normalized < len(self.epsilon) else 1.0
            require(math.isfinite(given) and given > 0.0, "epsilon must be positive and finite")
            o = replace(o, epsilon=given)
            self.normalized += 1
        height, width = -(-source.height // o.stride), -(-source.width // o.stride)
        self.reach(o.sum, o.first_out + out, height, width)
        alone = o.kind is not Kind.SEPARABLE
        for part in range(o.parts if alone else 1):
            begin = part * source.channels
            end = begin + (source.channels if alone else out)
            own = parameters if not alone else [p[begin:end] for p in parameters]
            term = replace(
                o,
                first_state=o.first_state + part,
                parts=1 if alone else o.parts,
                first_out=o.first_out + begin,
            )
            self.terms.append(
                Term(
                    term,
                    source,
                    end - begin,
                    height,
                    width,
                    tuple(own),
                    first_parameter,
                    begin,
                    self.moments + begin,
                )
            )
        self.moments += out if o.kind.normalizes else 0

    def check_window(self, o: Operation, source: Size) -> None:
        if o.kind in (Kind.RESIDUAL, Kind.SCALED):
            require(
                (o.parts, o.kernel, o.stride, o.offset, o.first_out) == (1, 1, 1, 0, 0),
                "a residual reads one state as it is, scaled or not",
            )
            return
        separable = o.kind is Kind.SEPARABLE
        _between(o.stride, 1, 1 if o.kind is Kind.NORMALIZE else 2, "an operation's stride")
        only = 1 if o.kind is Kind.NORMALIZE else 3
        _between(o.kernel, 1 if separable else only, 7 if separable else only, "an operation's kernel size")
        require(o.kernel % 2 == 1, "an operation's kernel size must be odd")
        shifted = separable and o.kernel == 1
        _between(o.offset, 0, o.stride - 1 if shifted else 0, "an operation's offset")
        require(
            o.offset == 0 or (source.height % 2 == 0 and source.width % 2 == 0),
            f"an operation with an offset needs an even height and width, got {source.height} x "
            f"{source.width}",
        )
        _between(o.first_out, 0, _LARGEST, "an operation's first output channel")

    def reach(self, total: int, channels: int, height: int, width: int) -> None:
        """Make the sum, or let it grow in channels."""
        _between(channels, 1, _LARGEST, "the number of a sum's channels")
        index = self.inputs + total
        if index == len(self.states):
            self.states.append(Size(channels, height, width))
            return
        state = self.states[index]
        require(
            (state.height, state.width) == (height, width),
            f"the operations of sum {total} give {state.height} x {state.width} and {height} x {width} "
            "pixels",
        )
        self.states[index] = Size(max(state.channels, channels), height, width)
