"""A network as a list of fused steps, and its encoding as two tensors.

The words are documented beside their decoder, ``csrc/plan/program.h``; the equations beside the kernels,
``csrc/kernels/*/*.h``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

BLOCK = 16
MAX_TERMS = 16
_MAGIC = 0x31464E50
_HEADER_WORDS = 13
_VERSIONS = {"fp32": 3, "bf16": 4}


class TermKind(IntEnum):
    """What a term of a node does to the state that it reads."""

    POINTWISE = 0
    DEPTHWISE = 1
    MAX_POOL = 2
    AVG_POOL = 3
    IDENTITY = 4
    POOLED_POINTWISE = 5
    DEPTHWISE_ALONE = 6
    UPSAMPLED = 7
    DEPTHWISE_POOLED = 8


class _StepKind(IntEnum):
    GROUP = 0
    STEM = 1
    NODE = 2
    GLOBAL_DEPTHWISE = 3
    LINEAR = 4
    MAP = 5


def blocks_of(channels: int) -> int:
    """Number of blocks of 16 that hold ``channels`` channels."""
    return -(-channels // BLOCK)


@dataclass
class Buffer:
    """A state: channels x height x width floats, channels rounded up to a multiple of 16.

    Attributes:
        in_band: Held per thread, with only the rows that its group works on, instead of whole in the arena.
        rows: Rows held.
        offset: In floats, in the arena or in the band.
    """

    name: str
    channels: int
    height: int
    width: int
    in_band: bool = False
    rows: int = 0
    offset: int = 0

    @property
    def blocks(self) -> int:
        """Blocks of 16 channels."""
        return blocks_of(self.channels)

    @property
    def floats(self) -> int:
        """Floats held."""
        return self.blocks * self.rows * self.width * BLOCK

    @property
    def shape(self) -> str:
        """Channels x height x width as text."""
        return f"{self.channels}x{self.height}x{self.width}"


@dataclass(frozen=True)
class Term:
    """One summand of a node. Offsets are into the weights, in floats; -1 where unused."""

    kind: TermKind
    source: int
    kernel: int = 1
    stride: int = 1
    shift: int = 0
    first_out: int = 0
    out_blocks: int = 0
    slope: int = -1
    depthwise: int = -1
    pointwise: int = -1
    scale: int = -1
    cap: int = -1
    middle: int = -1
    macs: int = 0


@dataclass(frozen=True)
class StemStep:
    """3x3 convolution of stride 2 from the pixels."""

    name: str
    output: int
    weights: int
    bias: int
    norm: int
    macs: int


@dataclass(frozen=True)
class NodeStep:
    """A sum of terms: a node of a cell, a pre-processing, or the tail's first convolution."""

    name: str
    output: int
    bias: int
    terms: tuple[Term, ...]

    @property
    def macs(self) -> int:
        """Multiply-adds of the convolutions, unpadded channels."""
        return sum(term.macs for term in self.terms)


@dataclass(frozen=True)
class GlobalDepthwiseStep:
    """Depthwise convolution that covers the whole state."""

    name: str
    source: int
    output: int
    slope: int
    weights: int
    bias: int
    macs: int
    cap: int = -1


@dataclass(frozen=True)
class LinearStep:
    """Projection to the embedding."""

    name: str
    source: int
    weights: int
    bias: int
    macs: int


@dataclass(frozen=True)
class MapStep:
    """A part of the result: a state's first ``channels`` channels, height x width x channels."""

    name: str
    source: int
    channels: int
    macs: int = 0


Step = StemStep | NodeStep | GlobalDepthwiseStep | LinearStep | MapStep


@dataclass(frozen=True)
class Group:
    """Steps taken together, ``rows`` output rows at a time; 0 means a step on its own, all rows at once."""

    steps: tuple[Step, ...]
    rows: int = 0


@dataclass
class Plan:
    """A lowered network. ``str(plan)`` is a readable table.

    ``precision`` is that of the states and of the convolutions' weights: ``"fp32"`` or ``"bf16"``. Sizes and
    offsets of states count elements, those of weights 32-bit words, whatever it is. ``results`` are the
    floats of an image's result. With a ``unit``, the program also runs on images whose sides are other
    multiples of it.
    """

    model_name: str
    precision: str
    height: int
    width: int
    bgr: bool
    results: int
    buffers: list[Buffer]
    groups: list[Group]
    weights: np.ndarray
    arena_floats: int
    band_floats: int
    unit: int = 0

    def steps(self) -> Iterator[Step]:
        """All steps in the order in which they are encoded and profiled."""
        for group in self.groups:
            yield from group.steps

    @property
    def state_bytes(self) -> int:
        """Bytes of an element of a state."""
        return 2 if self.precision == "bf16" else 4

    @property
    def macs(self) -> int:
        """Multiply-adds of all convolutions."""
        return sum(step.macs for step in self.steps())

    def encode(self) -> tuple[Tensor, Tensor]:
        """Return the program (int32, 1-D) and the weights (float32, 1-D)."""
        body: list[int] = []
        for buffer in self.buffers:
            body += [
                int(buffer.in_band),
                buffer.offset,
                buffer.blocks,
                buffer.height,
                buffer.width,
                buffer.rows,
            ]
        items = 0
        for group in self.groups:
            items += len(group.steps)
            if group.rows:
                items += 1
                body += [_StepKind.GROUP, group.rows, len(group.steps)]
            for step in group.steps:
                body += _encode_step(step)
        header = [
            _MAGIC,
            _VERSIONS[self.precision],
            _HEADER_WORDS + len(body),
            self.height,
            self.width,
            int(self.bgr),
            self.results,
            len(self.buffers),
            items,
            self.arena_floats,
            self.band_floats,
            self.weights.size,
            self.unit,
        ]
        program = torch.tensor([int(word) for word in header + body], dtype=torch.int32)
        # A copy that torch allocates, on a cache line: kernels load weights by whole ones.
        return program, torch.from_numpy(self.weights.astype(np.float32, copy=False)).clone()

    def rows(self) -> list[dict[str, str | int]]:
        """The table that ``str`` prints, as data."""
        table: list[dict[str, str | int]] = []
        for index, group in enumerate(self.groups):
            for step in group.steps:
                output = None if isinstance(step, LinearStep | MapStep) else self.buffers[step.output]
                table.append(
                    {
                        "group": index,
                        "step": step.name,
                        "operations": self._describe(step),
                        "output": self._result_shape(step) if output is None else output.shape,
                        "macs": step.macs,
                        "memory": "result"
                        if output is None
                        else f"{'band' if output.in_band else 'arena'}+{self.state_bytes * output.offset}",
                        "bytes": 4 * math.prod(int(side) for side in self._result_shape(step).split("x"))
                        if output is None
                        else self.state_bytes * output.floats,
                    }
                )
        return table

    def _result_shape(self, step: Step) -> str:
        if isinstance(step, MapStep):
            source = self.buffers[step.source]
            return f"{step.channels}x{source.height}x{source.width}"
        return f"{self.results}"

    def _describe(self, step: Step) -> str:
        if isinstance(step, StemStep):
            return f"conv 3x3 /2 (pixels, {'BGR' if self.bgr else 'RGB'} if uint8)"
        if isinstance(step, NodeStep):
            return self._describe_terms(step.terms)
        source = self.buffers[step.source]
        if isinstance(step, GlobalDepthwiseStep):
            return f"{_active(step.cap)} dw {source.height}x{source.width} valid ({source.name})"
        if isinstance(step, MapStep):
            return f"map ({source.name})"
        return f"linear ({source.name})"

    def _describe_terms(self, terms: Sequence[Term]) -> str:
        """Summands of one kind share a bracket: ``prelu pw (cells.3.node0, node1)``."""
        parts = []
        for operation, alike in itertools.groupby(terms, _operation):
            sources = [self.buffers[term.source].name for term in alike]
            place = sources[0].rpartition(".")[0] + "."
            names = ", ".join([sources[0], *(source.removeprefix(place) for source in sources[1:])])
            parts.append(f"{operation} ({names})" if operation else names)
        return " + ".join(parts)

    def __str__(self) -> str:
        table = self.rows()
        heads = ("group", "step", "operations", "output", "macs", "memory", "bytes")
        numbers = ("macs", "bytes")
        cells = [[f"{row[h]:,}" if h in numbers else str(row[h]) for h in heads] for row in table]
        widths = [max(len(head), *(len(line[i]) for line in cells)) for i, head in enumerate(heads)]
        right = {"group", *numbers}
        lines = []
        for line in [list(heads), *cells]:
            fields = [
                text.rjust(width) if head in right else text.ljust(width)
                for text, width, head in zip(line, widths, heads, strict=True)
            ]
            lines.append("  ".join(fields).rstrip())
        lines.append(
            f"{self.model_name}: {len(table)} steps in {len(self.groups)} groups, {self.macs:,} MACs, "
            f"arena {self.state_bytes * self.arena_floats:,} bytes, "
            f"band {self.state_bytes * self.band_floats:,} bytes, "
            f"weights {4 * self.weights.size:,} bytes"
        )
        return "\n".join(lines)


def _active(cap: int) -> str:
    return "prelu" if cap < 0 else "capped prelu"


def _operation(term: Term) -> str:
    stride = f" /{term.stride}" if term.stride > 1 else ""
    active = _active(term.cap)
    if term.kind == TermKind.POINTWISE:
        return f"{active} pw{stride}{' shifted' if term.shift else ''}"
    if term.kind == TermKind.POOLED_POINTWISE:
        return f"max 2x2 {active} pw"
    if term.kind in (TermKind.DEPTHWISE, TermKind.DEPTHWISE_ALONE, TermKind.DEPTHWISE_POOLED):
        middle = " prelu" if term.middle >= 0 else ""
        product = "" if term.kind == TermKind.DEPTHWISE_ALONE else " pw"
        if term.kind == TermKind.DEPTHWISE_POOLED:
            stride, middle = "", f"{middle} max 2x2"
        return f"{active} dw {term.kernel}x{term.kernel}{stride}{middle}{product}"
    if term.kind == TermKind.UPSAMPLED:
        return "upsampled"
    if term.kind == TermKind.IDENTITY:
        return ""
    return f"{'max' if term.kind == TermKind.MAX_POOL else 'avg'} 3x3{stride}"


def _encode_step(step: Step) -> list[int]:
    if isinstance(step, StemStep):
        return [_StepKind.STEM, step.output, step.weights, step.bias, step.norm]
    if isinstance(step, NodeStep):
        words: list[int] = [_StepKind.NODE, step.output, step.bias, len(step.terms)]
        for t in step.terms:
            words += [t.kind, t.source, t.kernel, t.stride, t.shift, t.first_out, t.out_blocks]
            words += [t.slope, t.depthwise, t.pointwise, t.scale, t.cap, t.middle]
        return words
    if isinstance(step, GlobalDepthwiseStep):
        words = [_StepKind.GLOBAL_DEPTHWISE, step.source, step.output, step.slope, step.weights, step.bias]
        return [*words, step.cap]
    if isinstance(step, MapStep):
        return [_StepKind.MAP, step.source, step.channels]
    return [_StepKind.LINEAR, step.source, step.weights, step.bias]
