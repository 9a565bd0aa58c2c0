"""Lowers a MobileFaceNet to a plan: two steps a block, an expansion, and all that comes after it.

Batch normalisation goes into the convolution before it. Activations are left to who reads a state, so that
states are sums and a block's result is the sum of its product and its input. An expansion, which only the
next step's windows read, has a state of its own.

A convolution of n channels a group reads n states, each of every n-th channel, and gives as many: each of
these is the sum of n depthwise convolutions, with no multiplication that the grouped one has not. Reading a
single state beside copies of exchanged channels would compute the stem n times: 4 % of the whole for n of 2.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from torch import nn

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.lowering.builder import Activation, PlanBuilder, array, normalization
from pocketnet_fast.lowering.plan import MAX_TERMS, NodeStep, Plan, Term, TermKind, blocks_of
from pocketnet_fast.lowering.rounding import Moments, expected_capped, rounded
from pocketnet_fast.models.chain import ChainModel, Unit


class _State(NamedTuple):
    """What a unit gives before its activation, in one buffer or, of every n-th channel each, in n."""

    buffers: tuple[int, ...]
    activation: nn.Module | None


def _channels_a_group(unit: Unit) -> int:
    return unit.layer.in_channels // unit.layer.groups if isinstance(unit.layer, nn.Conv2d) else 1


def _is_grouped(unit: Unit) -> bool:
    return isinstance(unit.layer, nn.Conv2d) and unit.layer.kernel_size != (1, 1) and not unit.is_depthwise


class _Lowering(PlanBuilder):
    def __init__(self, precision: str, bands: bool) -> None:
        super().__init__(precision)
        self.bands = bands
        self.moments: dict[int, Moments] = {}

    def folded(self, unit: Unit) -> tuple[np.ndarray, np.ndarray]:
        """A convolution's weights with its normalisation, and the bias that this gives it."""
        scale, shift = normalization(unit.norm)
        weight = array(unit.layer.weight)
        if unit.layer.bias is not None:
            shift = shift + array(unit.layer.bias) * scale
        return weight * scale.reshape(-1, *(1,) * (weight.ndim - 1)), shift

    def shift(self, weight: np.ndarray, expected: np.ndarray) -> np.ndarray:
        """By how much rounding shifts the mean of a product of what has the expected values."""
        if self.precision != "bf16":
            return np.zeros(len(weight))
        change: np.ndarray = (rounded(weight) - weight) @ expected
        return change

    def filter_shift(self, taps: np.ndarray, expected: np.ndarray) -> np.ndarray:
        """The same of a depthwise convolution."""
        if self.precision != "bf16":
            return np.zeros(len(taps))
        change: np.ndarray = (rounded(taps).sum((1, 2)) - taps.sum((1, 2))) * expected
        return change

    def parts(self, state: _State) -> list[tuple[int, Activation, np.ndarray]]:
        """The buffers of a state, what becomes of each where it is read, and the means of that."""
        count = len(state.buffers)
        active = Activation.of(state.activation, sum(self.buffers[b].channels for b in state.buffers))
        found = []
        for part, buffer in enumerate(state.buffers):
            own = active.every(part, count)
            found.append((buffer, own, expected_capped(self.moments[buffer], own.slope, own.cap)))
        return found

    def product(self, unit: Unit, source: _State) -> tuple[_State, NodeStep]:
        """The step of a pointwise convolution of what becomes of a state, and its result."""
        state = self.buffers[source.buffers[0]]
        weight, bias = self.folded(unit)
        terms = []
        for part, (buffer, active, expected) in enumerate(self.parts(source)):
            own = weight[:, part :: len(source.buffers), 0, 0]
            terms.append(self.pointwise(buffer, own, active))
            bias = bias - self.shift(own, expected)
        output = self.buffer(unit.name, len(weight), state.height, state.width)
        self.moments[output] = Moments.after(unit.norm)
        return _State((output,), unit.activation), self.node(unit.name, output, terms, bias)

    def separable(self, depthwise: Unit, unit: Unit, source: _State, around: _State | None) -> _State:
        """Emit a depthwise convolution and the product after it, plus a state; returns the sum's."""
        ((buffer, active, expected),) = self.parts(source)
        state = self.buffers[buffer]
        assert isinstance(depthwise.layer, nn.Conv2d)
        stride = depthwise.layer.stride[0]
        taps, filter_bias = self.folded(depthwise)
        taps = taps[:, 0]
        middle = Activation.of(depthwise.activation, state.channels)
        filter_bias = filter_bias - self.filter_shift(taps, expected)
        weight, bias = self.folded(unit)
        weight = weight[:, :, 0, 0]
        filtered = expected_capped(Moments.after(depthwise.norm), middle.slope, middle.cap)
        bias = bias - self.shift(weight, filtered)
        height, width = -(-state.height // stride), -(-state.width // stride)
        output = self.buffer(unit.name, weight.shape[0], height, width)
        terms = [
            self.depthwise(
                buffer, taps, weight, bias=filter_bias, middle=middle, activation=active, stride=stride
            )
        ]
        self.moments[output] = Moments.after(unit.norm)
        if around is not None:
            term, moments = self.residual(around)
            terms.append(term)
            self.moments[output] = self.moments[output].plus(moments)
        self.emit(self.node(unit.name, output, terms, bias))
        return _State((output,), unit.activation)

    def residual(self, state: _State) -> tuple[Term, Moments]:
        """What becomes of a state as a summand, and its moments."""
        ((buffer, active, expected),) = self.parts(state)
        channels, moments = self.buffers[buffer].channels, self.moments[buffer]
        if state.activation is None:
            return Term(TermKind.IDENTITY, buffer, out_blocks=blocks_of(channels)), moments
        # Of the terms without a product, a depthwise convolution alone activates its input: here one that
        # leaves it as it is.
        taps = np.zeros((channels, 3, 3))
        taps[:, 1, 1] = 1
        none = Activation.of(None, channels)
        term = self.depthwise(buffer, taps, None, bias=np.zeros(channels), middle=none, activation=active)
        return replace(term, macs=0), Moments(expected, moments.variance)

    def first(self, unit: Unit, model: ChainModel, parts: int) -> _State:
        """Emit the first convolution, into as many buffers."""
        height, width = model.input_spec.size
        weight, bias = self.folded(unit)
        moments = Moments.after(unit.norm)
        buffers = []
        for part in range(parts):
            name = unit.name if parts == 1 else f"{unit.name}.{part}"
            own = slice(part, None, parts)
            output = self.buffer(name, len(bias[own]), (height + 1) // 2, (width + 1) // 2)
            self.emit(self.stem(name, output, weight[own], bias[own], model.input_spec))
            self.moments[output] = moments.every(part, parts)
            buffers.append(output)
        return _State(tuple(buffers), unit.activation)

    def grouped(self, unit: Unit, following: Unit, source: _State) -> _State:
        """Emit a convolution of several channels a group and the product after it; returns the product.

        The product reads the rows at hand of the sums, so that these stay in a band.
        """
        parts, count = self.parts(source), len(source.buffers)
        weight, bias = self.folded(unit)
        state = self.buffers[source.buffers[0]]
        moments, none = Moments.after(unit.norm), Activation.of(None, state.channels)
        rows = self.band_rows(source.buffers[0])
        buffers, steps = [], []
        for out in range(count):
            name, own = f"{unit.name}.{out}", bias[out::count]
            output = self.buffer(name, state.channels, state.height, state.width)
            terms = []
            for part, (buffer, active, expected) in enumerate(parts):
                taps = weight[out::count, part]
                zero = np.zeros(len(taps))
                terms.append(self.depthwise(buffer, taps, None, bias=zero, middle=none, activation=active))
                own = own - self.filter_shift(taps, expected)
            if self.bands:
                self.buffers[output].in_band, self.buffers[output].rows = True, rows
            self.moments[output] = moments.every(out, count)
            buffers.append(output)
            steps.append(self.node(name, output, terms, own))
        result, step = self.product(following, _State(tuple(buffers), unit.activation))
        if self.bands:
            self.emit_in_bands([*steps, step], rows)
        else:
            for each in (*steps, step):
                self.emit(each)
        return result

    def run(self, model: ChainModel, bgr: bool) -> Plan:
        stem, *units, filtering, product = model.units()
        parts = _channels_a_group(units[0]) if _is_grouped(units[0]) else 1
        if parts > MAX_TERMS:
            raise PocketNetError(
                f"{model.model_name} has no fused form: {units[0].name} has {parts} channels a group, "
                f"and the kernels take at most {MAX_TERMS}"
            )
        state = self.first(stem, model, parts)
        taken: list[_State] = []
        while units:
            unit = units.pop(0)
            taken.append(state)
            if _is_grouped(unit):
                state = self.grouped(unit, units.pop(0), state)
                taken.append(state)
            elif unit.is_depthwise:
                following = units.pop(0)
                taken.append(state)
                around = taken[-following.around] if following.around else None
                state = self.separable(unit, following, state, around)
            else:
                state, step = self.product(unit, state)
                self.emit(step)
        self._tail(filtering, product, state)
        return self.finish(model.model_name, model.input_spec.size, bgr, model.embedding_dim)

    def _tail(self, filtering: Unit, product: Unit, source: _State) -> None:
        ((state, active, _),) = self.parts(source)
        buffer = self.buffers[state]
        weight, bias = self.folded(filtering)
        if weight.shape[2:] != (buffer.height, buffer.width):
            raise PocketNetError(
                f"the last map is {buffer.height}x{buffer.width}; the global convolution needs "
                f"{weight.shape[2]}x{weight.shape[3]}"
            )
        vector = self.buffer("features", weight.shape[0], 1, 1)
        self.emit(
            self.global_depthwise(filtering.name, state, vector, active.slope, weight[:, 0], bias, active.cap)
        )
        weight, bias = self.folded(product)
        self.emit(self.linear(product.name, vector, weight.reshape(weight.shape[:2]), bias))


def lower_mobilefacenet(model: ChainModel, bgr: bool, bands: bool, precision: str) -> Plan:
    """Lower a MobileFaceNet; see ``lower``, whose ``color`` is not the network's where ``bgr`` is true.

    Most steps are groups of their own: the windows of one read rows that the step before has not made yet.
    """
    return _Lowering(precision, bands).run(model, bgr)
