"""The distinct steps of the published networks, from ``shapes/``, and a small plan around each."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from pocketnet_fast.lowering import packing
from pocketnet_fast.lowering.arena import place
from pocketnet_fast.lowering.plan import (
    BLOCK,
    Buffer,
    GlobalDepthwiseStep,
    Group,
    LinearStep,
    NodeStep,
    Plan,
    StemStep,
    Step,
    Term,
    TermKind,
)

_NAMES = "abcdefghijklmnop"

FILE = Path(__file__).parent / "shapes" / "pocketnet_steps.json"


@dataclass(frozen=True)
class StateShape:
    """What a step reads or writes."""

    channels: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.channels}x{self.height}x{self.width}"


@dataclass(frozen=True)
class TermShape:
    """A term of a node. ``state`` indexes the node's states; a block is 16 output channels."""

    kind: str
    state: int
    kernel: int
    stride: int
    shift: int
    first_block: int
    blocks: int

    def __str__(self) -> str:
        names = {"pointwise": "pw", "depthwise": f"dw{self.kernel}", "max_pool": "max", "avg_pool": "avg"}
        stride = f"/{self.stride}" if self.stride > 1 else ""
        shift = " shifted" if self.shift else ""
        return f"{names.get(self.kind, self.kind)}{stride}{shift}"


@dataclass(frozen=True)
class StepShape:
    """A step without its numbers.

    Attributes:
        kind: ``stem``, ``node``, ``global_depthwise`` or ``linear``.
        states: What it reads, each once; the stem reads the image.
        uses: How often each network has it.
    """

    kind: str
    states: tuple[StateShape, ...]
    output: StateShape
    macs: int
    terms: tuple[TermShape, ...] = ()
    uses: dict[str, int] = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        operations = [
            f"{operation}({''.join(_NAMES[term.state] for term in terms)})"
            for operation, terms in groupby(self.terms, str)
        ]
        states = [
            f"{''.join(name for _, name in named)}={state}"
            for state, named in groupby(zip(self.states, _NAMES, strict=False), lambda pair: pair[0])
        ]
        return f"{' + '.join(operations) or self.kind} to {self.output}, {' '.join(states)}"


def to_json(shapes: list[StepShape]) -> str:
    """The file's text: one step a line."""
    return "[\n" + ",\n".join(json.dumps(asdict(shape)) for shape in shapes) + "\n]\n"


def read_shapes() -> list[StepShape]:
    """The steps of the committed file."""

    def shape(entry: dict[str, Any]) -> StepShape:
        entry["states"] = tuple(StateShape(**state) for state in entry["states"])
        entry["terms"] = tuple(TermShape(**term) for term in entry["terms"])
        entry["output"] = StateShape(**entry["output"])
        return StepShape(**entry)

    return [shape(entry) for entry in json.loads(FILE.read_text())]


class _Builder:
    """Puts steps with random constants into a plan.

    Every constant is a small whole number, so that with small whole pixels float32 holds each product and
    each partial sum exactly, in any order (averages alone would be rounded).
    """

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.store = packing.WeightStore()
        self.buffers: list[Buffer] = []
        self.groups: list[Group] = []

    def any_of(self, values: list[int], *shape: int) -> np.ndarray:
        return self.random.choice(np.array(values, dtype=np.float64), shape)

    def signs(self, *shape: int) -> np.ndarray:
        return self.any_of([-1, 1], *shape)

    def vector(self, channels: int, values: list[int]) -> int:
        return self.store.add(packing.pack_vector(self.any_of(values, channels)))

    def bias(self, channels: int) -> int:
        return self.vector(channels, [-2, -1, 0, 1, 2])

    def slope(self, channels: int) -> int:
        return self.vector(channels, [-1, 0, 2])

    def buffer(self, name: str, shape: StateShape) -> int:
        self.buffers.append(Buffer(name, shape.channels, shape.height, shape.width, rows=shape.height))
        return len(self.buffers) - 1

    def emit(self, step: Step, rows: int = 0) -> None:
        self.groups.append(Group((step,), rows))

    def stem(self, output: StateShape) -> StemStep:
        return StemStep(
            "stem",
            self.buffer("stem", output),
            self.store.add(packing.pack_stem(self.signs(output.channels, 3, 3, 3))),
            self.bias(output.channels),
            self.store.add(np.array([128.0] * 3 + [1.0] * 3)),
            macs=0,
        )

    def copied(self, name: str, source: int, channels: int, stride: int) -> int:
        """A state whose channels repeat those of ``source``, activated, with signs and a bias."""
        before = self.buffers[source]
        weight = np.zeros((channels, before.channels))
        weight[np.arange(channels), np.arange(channels) % before.channels] = self.signs(channels)
        output = self.buffer(name, StateShape(channels, before.height // stride, before.width // stride))
        term = Term(
            TermKind.POINTWISE,
            source,
            stride=stride,
            out_blocks=self.buffers[output].blocks,
            slope=self.slope(before.channels),
            pointwise=self.store.add(packing.pack_pointwise(weight)),
        )
        self.emit(NodeStep(name, output, self.bias(channels), (term,)))
        return output

    def state(self, name: str, stem: int, shape: StateShape) -> int:
        source = stem
        while self.buffers[source].height > shape.height:
            source = self.copied(f"{name} halved", source, BLOCK, 2)
        return self.copied(name, source, shape.channels, 1)

    def node(self, shape: StepShape, states: list[int]) -> NodeStep:
        terms = tuple(self.term(term, states[term.state]) for term in shape.terms)
        output = self.buffer("output", shape.output)
        return NodeStep("node", output, self.bias(shape.output.channels), terms)

    def term(self, shape: TermShape, source: int) -> Term:
        kind = TermKind[shape.kind.upper()]
        channels, outputs = self.buffers[source].channels, shape.blocks * BLOCK
        product = kind in (TermKind.POINTWISE, TermKind.DEPTHWISE)
        pool = kind in (TermKind.MAX_POOL, TermKind.AVG_POOL)
        taps = self.signs(channels, shape.kernel, shape.kernel)
        matrix = self.signs(outputs, channels)
        return Term(
            kind,
            source,
            shape.kernel,
            shape.stride,
            shape.shift,
            shape.first_block,
            shape.blocks,
            slope=self.slope(channels) if product else -1,
            depthwise=self.store.add(packing.pack_depthwise(taps)) if kind == TermKind.DEPTHWISE else -1,
            pointwise=self.store.add(packing.pack_pointwise(matrix)) if product else -1,
            scale=self.vector(channels, [-1, 1, 2]) if pool else -1,
        )

    def global_depthwise(self, source: int) -> GlobalDepthwiseStep:
        before = self.buffers[source]
        weights = self.any_of([-3, -2, -1, 1, 2, 3], before.channels, before.height, before.width)
        return GlobalDepthwiseStep(
            "global_depthwise",
            source,
            self.buffer("features", StateShape(before.channels, 1, 1)),
            self.slope(before.channels),
            self.store.add(packing.pack_depthwise(weights)),
            self.bias(before.channels),
            macs=0,
        )

    def linear(self, source: int, weights: np.ndarray) -> LinearStep:
        packed = self.store.add(packing.pack_linear(weights))
        return LinearStep("linear", source, packed, self.bias(weights.shape[0]), macs=0)


def build_plan(shape: StepShape, rows: int = 0, seed: int = 0) -> tuple[Plan, int]:
    """A plan around one step: the states it reads, copied from a stem; the step; a sum over its output.

    Args:
        shape: The step.
        rows: Rows that it is taken in at a time; 0 for all at once.
        seed: Of the constants.

    Returns:
        The plan, and the index of the step among the plan's.
    """
    builder = _Builder(seed)
    largest = max(shape.states, key=lambda state: state.height)
    if shape.kind == "stem":
        height, width = largest.height, largest.width
        step: Step = builder.stem(shape.output)
    else:
        height, width = 2 * largest.height, 2 * largest.width
        stem = builder.stem(StateShape(BLOCK, largest.height, largest.width))
        builder.emit(stem)
        states = [builder.state(f"state {i}", stem.output, state) for i, state in enumerate(shape.states)]
        if shape.kind == "node":
            step = builder.node(shape, states)
        elif shape.kind == "global_depthwise":
            step = builder.global_depthwise(states[0])
        else:
            features = builder.global_depthwise(states[0])
            builder.emit(features)
            weights = builder.signs(shape.output.channels, shape.states[0].channels)
            step = builder.linear(features.output, weights)
    index = len(builder.groups)
    builder.emit(step, rows)
    if not isinstance(step, LinearStep):
        output = step.output
        if not isinstance(step, GlobalDepthwiseStep):
            features = builder.global_depthwise(output)
            builder.emit(features)
            output = features.output
        builder.emit(builder.linear(output, np.eye(shape.output.channels)))
    arena = place(builder.buffers, [(0, 0)] * len(builder.buffers))
    plan = Plan(
        model_name=str(shape),
        precision="fp32",
        height=height,
        width=width,
        bgr=False,
        results=shape.output.channels,
        buffers=builder.buffers,
        groups=builder.groups,
        weights=builder.store.finish(),
        arena_floats=arena,
        band_floats=0,
    )
    return plan, index
