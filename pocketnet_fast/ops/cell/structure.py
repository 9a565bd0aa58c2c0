"""What the operations of a cell are, beside their weights."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass


class Kind(enum.IntEnum):
    """What an operation does to the states it reads.

    All but ``RESIDUAL`` and ``SCALED`` end in batch normalisation. ``SEPARABLE``: PReLU, depthwise k x k,
    pointwise. The pools are 3 x 3 with padding 1; averages count only pixels inside the map. ``SCALED`` is
    a residual times a factor per channel.
    """

    SEPARABLE = 0
    MAX_POOL = 1
    AVG_POOL = 2
    NORMALIZE = 3
    RESIDUAL = 4
    SCALED = 5

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """What its parameters are, in their order."""
        normalization = ("gamma", "beta")
        return {
            Kind.SEPARABLE: ("slope", "depthwise", "pointwise", *normalization),
            Kind.RESIDUAL: (),
            Kind.SCALED: ("scale",),
        }.get(self, normalization)

    @property
    def parameters(self) -> int:
        """The number of its parameters."""
        return len(self.parameter_names)

    @property
    def normalizes(self) -> bool:
        """Whether it ends in batch normalisation, and so has moments and an epsilon."""
        return self not in (Kind.RESIDUAL, Kind.SCALED)


@dataclass(frozen=True)
class Operation:
    """One operation of a cell.

    Attributes:
        sum: The sum that it adds to; operations stand in the order of their sums.
        kind: What it computes.
        first_state: The first of the states it reads. States are the inputs, then the sums before this one.
        parts: How many states it reads, as their concatenation over the channels.
        kernel: Size of the window: 1, 3, 5 or 7, padded by ``kernel // 2`` zeros; 3 for pools, 1 otherwise.
        stride: 1 or 2.
        offset: With a kernel of 1 and stride 2, read pixel ``(2 y + offset, 2 x + offset)``: 0 or 1.
        first_out: The first channel of the sum that it adds to.
        epsilon: Added to the variance.
    """

    sum: int
    kind: Kind
    first_state: int
    parts: int = 1
    kernel: int = 1
    stride: int = 1
    offset: int = 0
    first_out: int = 0
    epsilon: float = 1e-5


_WORDS = 8


def encode(operations: Sequence[Operation]) -> tuple[list[int], list[float]]:
    """The operator's ``structure``, eight numbers an operation, and ``epsilon`` of those that normalise."""
    words = [
        int(word)
        for o in operations
        for word in (o.sum, o.kind, o.first_state, o.parts, o.kernel, o.stride, o.offset, o.first_out)
    ]
    return words, [o.epsilon for o in operations if o.kind.normalizes]


def decode(structure: Sequence[int]) -> list[Operation]:
    """The operations of ``encode``'s first result, without their epsilon."""
    operations = []
    for begin in range(0, len(structure), _WORDS):
        total, kind, *rest = structure[begin : begin + _WORDS]
        operations.append(Operation(total, Kind(kind), *rest))
    return operations
