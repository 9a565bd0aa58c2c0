"""What lowering a network of any kind collects: states, steps in groups, packed weights; then a plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor, nn

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.lowering import packing
from pocketnet_fast.lowering.arena import place
from pocketnet_fast.lowering.plan import (
    BLOCK,
    MAX_TERMS,
    Buffer,
    GlobalDepthwiseStep,
    Group,
    LinearStep,
    MapStep,
    NodeStep,
    Plan,
    StemStep,
    Step,
    Term,
    TermKind,
    blocks_of,
)
from pocketnet_fast.models.base import InputSpec

# Pixels in the rows of a band: few enough that the band stays in the second-level cache, many enough that the
# rows a depthwise convolution reads twice do not count.
BAND_PIXELS = 448
# An upper bound that no float exceeds.
_NO_CAP = float(np.finfo(np.float32).max)


def array(tensor: Tensor | None) -> np.ndarray:
    """A tensor's values in float64."""
    assert tensor is not None
    return tensor.detach().cpu().double().numpy()


def normalization(bn: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift of a BatchNorm in evaluation."""
    assert isinstance(bn, nn.BatchNorm1d | nn.BatchNorm2d)
    scale = array(bn.weight) / np.sqrt(array(bn.running_var) + bn.eps)
    return scale, array(bn.bias) - array(bn.running_mean) * scale


def filters(conv: nn.Module) -> np.ndarray:
    """A convolution's weights in float64."""
    assert isinstance(conv, nn.Conv2d)
    return array(conv.weight)


def check_choices(color: str, precision: str) -> None:
    """Raise unless a plan can have them.

    Raises:
        PocketNetError: Another channel order or precision.
    """
    if color not in ("rgb", "bgr"):
        raise PocketNetError(f"unknown channel order {color!r}; expected 'rgb' or 'bgr'")
    if precision not in ("fp32", "bf16"):
        raise PocketNetError(f"precision is {precision!r}; a plan has 'fp32' or 'bf16'")


class Activation(NamedTuple):
    """``min(prelu(x), cap)`` per channel; without a cap, no upper bound."""

    slope: np.ndarray
    cap: np.ndarray | None = None

    def every(self, first: int, step: int) -> Activation:
        """That of every ``step``-th channel."""
        return Activation(self.slope[first::step], None if self.cap is None else self.cap[first::step])

    @staticmethod
    def of(module: nn.Module | None, channels: int) -> Activation:
        """That of a module of ``torch.nn``; of None, none.

        Raises:
            PocketNetError: It is none that the kernels have.
        """
        if module is None:
            return Activation(np.ones(channels))
        if isinstance(module, nn.PReLU):
            return Activation(np.broadcast_to(array(module.weight), (channels,)))
        if isinstance(module, nn.ReLU6):
            return Activation(np.zeros(channels), np.full(channels, 6.0))
        if isinstance(module, nn.ReLU):
            return Activation(np.zeros(channels))
        raise PocketNetError(f"cannot lower an activation of type {type(module).__name__}")


class PlanBuilder:
    """A plan in the making.

    Args:
        precision: The precision of the states and of the weights of convolutions, "fp32" or "bf16".

    Attributes:
        store: The packed weights so far.
        buffers: The states so far.
        groups: The steps so far.
    """

    def __init__(self, precision: str) -> None:
        self.precision = precision
        pairs = precision == "bf16"
        self.pack_depthwise = packing.pack_depthwise_pairs if pairs else packing.pack_depthwise
        self.pack_pointwise = packing.pack_pointwise_pairs if pairs else packing.pack_pointwise
        self.store = packing.WeightStore()
        self.buffers: list[Buffer] = []
        self.groups: list[Group] = []

    def buffer(self, name: str, channels: int, height: int, width: int) -> int:
        """Add a state of its own in the arena; returns its number."""
        self.buffers.append(Buffer(name, channels, height, width, rows=height))
        return len(self.buffers) - 1

    def vector(self, values: np.ndarray) -> int:
        """Store a value for each channel; returns its offset."""
        return self.store.add(packing.pack_vector(values))

    def optional(self, values: np.ndarray | None) -> int:
        """The same, or -1 for None."""
        return -1 if values is None else self.vector(values)

    def pointwise(
        self,
        source: int,
        weight: np.ndarray,
        activation: Activation | None = None,
        *,
        pooled: bool = False,
        stride: int = 1,
    ) -> Term:
        """A product with a state, or with the largest of its 2x2 pixels; ``weight`` is N x C."""
        state = self.buffers[source]
        active = activation or Activation.of(None, state.channels)
        stride = 2 if pooled else stride
        pixels = -(-state.height // stride) * -(-state.width // stride)
        return Term(
            TermKind.POOLED_POINTWISE if pooled else TermKind.POINTWISE,
            source,
            stride=stride,
            out_blocks=blocks_of(weight.shape[0]),
            slope=self.vector(active.slope),
            cap=self.optional(active.cap),
            pointwise=self.store.add(self.pack_pointwise(weight)),
            macs=pixels * weight.size,
        )

    def depthwise(
        self,
        source: int,
        taps: np.ndarray,
        weight: np.ndarray | None,
        *,
        bias: np.ndarray,
        middle: Activation,
        activation: Activation | None = None,
        stride: int = 1,
        pooled: bool = False,
    ) -> Term:
        """A depthwise convolution, its bias and activation, and the product that follows, if one does.

        Args:
            source: What it reads.
            taps: C x k x k.
            weight: N x C, or None.
            bias: The bias of the depthwise convolution.
            middle: What becomes of its result.
            activation: What becomes of the state before it.
            stride: 1 or 2.
            pooled: Whether the product is of the largest of 2x2 pixels of its result.
        """
        state = self.buffers[source]
        active = activation or Activation.of(None, state.channels)
        pixels = -(-state.height // stride) * -(-state.width // stride)
        kind = TermKind.DEPTHWISE_ALONE if weight is None else TermKind.DEPTHWISE
        products = 0 if weight is None else pixels * weight.size
        if pooled:
            kind, stride, products = TermKind.DEPTHWISE_POOLED, 2, products // 4
        caps = np.full(state.channels, _NO_CAP) if middle.cap is None else middle.cap
        rows = [packing.pack_vector(row).reshape(-1, BLOCK) for row in (bias, middle.slope, caps)]
        return Term(
            kind,
            source,
            taps.shape[1],
            stride,
            out_blocks=blocks_of(state.channels if weight is None else weight.shape[0]),
            slope=self.vector(active.slope),
            cap=self.optional(active.cap),
            depthwise=self.store.add(self.pack_depthwise(taps)),
            middle=self.store.add(np.stack(rows, 1)),
            pointwise=-1 if weight is None else self.store.add(self.pack_pointwise(weight)),
            macs=pixels * taps.size + products,
        )

    def band_rows(self, buffer: int) -> int:
        """Rows of a state that are taken at a time."""
        state = self.buffers[buffer]
        return min(max(1, BAND_PIXELS // state.width), state.height)

    def stem(self, name: str, output: int, weight: np.ndarray, bias: np.ndarray, spec: InputSpec) -> StemStep:
        """The step of a 3x3 convolution of the pixels; ``weight`` is C x 3 x 3 x 3."""
        norm = [255.0 * m for m in spec.mean] + [1.0 / (255.0 * s) for s in spec.std]
        state = self.buffers[output]
        return StemStep(
            name,
            output,
            self.store.add(packing.pack_stem(weight)),
            self.vector(bias),
            self.store.add(np.array(norm)),
            macs=weight.size * state.height * state.width,
        )

    def node(self, name: str, output: int, terms: Sequence[Term], bias: np.ndarray) -> NodeStep:
        """The step of a sum.

        Raises:
            PocketNetError: It has more terms than the kernels take.
        """
        if len(terms) > MAX_TERMS:
            raise PocketNetError(
                f"{name} sums {len(terms)} terms; the kernels take at most {MAX_TERMS} "
                "(a concatenation of fewer states is needed)"
            )
        return NodeStep(name, output, self.vector(bias), tuple(terms))

    def global_depthwise(
        self,
        name: str,
        source: int,
        output: int,
        slope: np.ndarray,
        weight: np.ndarray,
        bias: np.ndarray,
        cap: np.ndarray | None = None,
    ) -> GlobalDepthwiseStep:
        """The step of a convolution that covers a state; ``weight`` is C x height x width of it."""
        return GlobalDepthwiseStep(
            name,
            source,
            output,
            self.vector(slope),
            self.store.add(packing.pack_depthwise(weight)),
            self.vector(bias),
            macs=weight.size,
            cap=self.optional(cap),
        )

    def linear(self, name: str, source: int, weight: np.ndarray, bias: np.ndarray) -> LinearStep:
        """The step of a projection to the embedding; ``weight`` is N x C."""
        offset = self.store.add(packing.pack_linear(weight))
        return LinearStep(name, source, offset, self.vector(bias), macs=weight.size)

    def map(self, name: str, source: int, channels: int) -> MapStep:
        """The step that makes a state's first channels a part of the result."""
        return MapStep(name, source, channels)

    def emit(self, step: Step) -> None:
        """Append a step as a group of its own."""
        self.groups.append(Group((step,)))

    def emit_in_bands(self, steps: Sequence[Step], rows: int) -> None:
        """Append steps as one group, which goes through all of them a few rows at a time."""
        self.groups.append(Group(tuple(steps), rows))

    def roll(self, first: int, rows: int) -> None:
        """Make one rolling group of those from a number on: a few rows of the last step at a time.

        Each band takes the steps before as far as it needs, so that their rows are read while they are in the
        cache.
        """
        steps = tuple(step for group in self.groups[first:] for step in group.steps)
        self.groups[first:] = [Group(steps, rows)]

    def finish(self, name: str, size: tuple[int, int], bgr: bool, results: int, unit: int = 0) -> Plan:
        """Place the states and return the plan; see ``Plan`` for the arguments."""
        lifetimes: dict[int, tuple[int, int]] = {}
        for time, group in enumerate(self.groups):
            for step in group.steps:
                for buffer in _touched(step):
                    lifetimes[buffer] = (lifetimes.get(buffer, (time, time))[0], time)
        sizes = {}
        for in_band in (False, True):
            members = [i for i, buffer in enumerate(self.buffers) if buffer.in_band == in_band]
            sizes[in_band] = place([self.buffers[i] for i in members], [lifetimes[i] for i in members])
        return Plan(
            name,
            self.precision,
            *size,
            bgr,
            results,
            self.buffers,
            self.groups,
            self.store.finish(),
            sizes[False],
            sizes[True],
            unit,
        )


def _touched(step: Step) -> list[int]:
    if isinstance(step, StemStep):
        return [step.output]
    if isinstance(step, NodeStep):
        return [step.output, *(term.source for term in step.terms)]
    if isinstance(step, LinearStep | MapStep):
        return [step.source]
    return [step.source, step.output]
