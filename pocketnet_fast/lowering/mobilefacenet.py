"""Lowers a MobileFaceNet to a plan: two steps a block, an expansion, and all that comes after it.

Batch normalisation goes into the convolution before it. Activations are left to who reads a state, so that
states are sums and a block's result is the sum of its product and its input. An expansion, which only the
next step's windows read, has a state of its own.
"""

from __future__ import annotations

import numpy as np
from torch import nn

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.lowering.builder import Activation, PlanBuilder, filters, normalization
from pocketnet_fast.lowering.plan import Plan, Term, TermKind, blocks_of
from pocketnet_fast.lowering.rounding import Moments, expected_capped, rounded
from pocketnet_fast.models.mobilefacenet import InvertedResidual, MobileFaceNet


def _parts(module: nn.Module) -> tuple[nn.Module, nn.Module, nn.Module | None]:
    """A convolution, its normalisation, and its activation if it has one."""
    parts = [*module.children()]
    return parts[0], parts[1], parts[2] if len(parts) > 2 else None


class _Lowering(PlanBuilder):
    def __init__(self, precision: str) -> None:
        super().__init__(precision)
        self.moments: dict[int, Moments] = {}

    def folded(self, conv: nn.Module, bn: nn.Module) -> tuple[np.ndarray, np.ndarray]:
        """A convolution's weights with its normalisation, and the bias that this gives it."""
        scale, shift = normalization(bn)
        weight = filters(conv)
        return weight * scale.reshape(-1, *(1,) * (weight.ndim - 1)), shift

    def shift(self, weight: np.ndarray, expected: np.ndarray) -> np.ndarray:
        """By how much rounding shifts the mean of a product of what has the expected values."""
        if self.precision != "bf16":
            return np.zeros(len(weight))
        change: np.ndarray = (rounded(weight) - weight) @ expected
        return change

    def expected(self, state: int, activation: Activation) -> np.ndarray:
        """The means of what becomes of a state."""
        return expected_capped(self.moments[state], activation.slope, activation.cap)

    def product(
        self, name: str, source: int, conv: nn.Module, bn: nn.Module, activation: nn.Module | None
    ) -> int:
        """Emit a pointwise convolution of what becomes of a state; returns its state."""
        state = self.buffers[source]
        active = Activation.of(activation, state.channels)
        weight, bias = self.folded(conv, bn)
        weight = weight[:, :, 0, 0]
        output = self.buffer(name, weight.shape[0], state.height, state.width)
        bias = bias - self.shift(weight, self.expected(source, active))
        self.emit(self.node(name, output, [self.pointwise(source, weight, active)], bias))
        self.moments[output] = Moments.after(bn)
        return output

    def separable(
        self,
        name: str,
        source: int,
        activation: nn.Module | None,
        depthwise: tuple[nn.Module, nn.Module, nn.Module | None],
        conv: nn.Module,
        bn: nn.Module,
        residual: int | None = None,
    ) -> int:
        """Emit a depthwise convolution and the product after it, plus a state; returns the sum's state."""
        state = self.buffers[source]
        active = Activation.of(activation, state.channels)
        filter_, filter_bn, between = depthwise
        assert isinstance(filter_, nn.Conv2d)
        stride = filter_.stride[0]
        taps, filter_bias = self.folded(filter_, filter_bn)
        taps = taps[:, 0]
        middle = Activation.of(between, state.channels)
        if self.precision == "bf16":
            change = rounded(taps).sum((1, 2)) - taps.sum((1, 2))
            filter_bias = filter_bias - change * self.expected(source, active)
        weight, bias = self.folded(conv, bn)
        weight = weight[:, :, 0, 0]
        filtered = expected_capped(Moments.after(filter_bn), middle.slope, middle.cap)
        bias = bias - self.shift(weight, filtered)
        height, width = -(-state.height // stride), -(-state.width // stride)
        output = self.buffer(name, weight.shape[0], height, width)
        terms = [
            self.depthwise(
                source, taps, weight, bias=filter_bias, middle=middle, activation=active, stride=stride
            )
        ]
        self.moments[output] = Moments.after(bn)
        if residual is not None:
            terms.append(Term(TermKind.IDENTITY, residual, out_blocks=blocks_of(weight.shape[0])))
            self.moments[output] = self.moments[output].plus(self.moments[residual])
        self.emit(self.node(name, output, terms, bias))
        return output

    def run(self, model: MobileFaceNet, bgr: bool) -> Plan:
        height, width = model.input_spec.size
        conv, bn, activation = _parts(model.conv1)
        weight, bias = self.folded(conv, bn)
        state = self.buffer("conv1", weight.shape[0], (height + 1) // 2, (width + 1) // 2)
        self.emit(self.stem("conv1", state, weight, bias, model.input_spec))
        self.moments[state] = Moments.after(bn)
        first = [*model.dw_conv.children()]
        depthwise = (first[0], first[1], first[2])
        state = self.separable("dw_conv", state, activation, depthwise, first[3], first[4])
        activation = first[5]
        for number, block in enumerate(model.features):
            assert isinstance(block, InvertedResidual)
            expansion, filtering, conv, bn = block.conv.children()
            name = f"features.{number}"
            wide, wide_bn, wide_activation = _parts(expansion)
            expanded = self.product(f"{name}.expansion", state, wide, wide_bn, activation)
            residual = state if block.residual else None
            state = self.separable(name, expanded, wide_activation, _parts(filtering), conv, bn, residual)
            activation = None
        self._tail(model, state, activation)
        return self.finish(model.model_name, model.input_spec.size, bgr, model.embedding_dim)

    def _tail(self, model: MobileFaceNet, state: int, activation: nn.Module | None) -> None:
        conv, bn, after = _parts(model.conv2)
        state = self.product("conv2", state, conv, bn, activation)
        buffer = self.buffers[state]
        active = Activation.of(after, buffer.channels)
        depthwise, depthwise_bn, _ = _parts(model.gdconv)
        weight, bias = self.folded(depthwise, depthwise_bn)
        if weight.shape[2:] != (buffer.height, buffer.width):
            raise PocketNetError(
                f"the last map is {buffer.height}x{buffer.width}; the global convolution needs "
                f"{weight.shape[2]}x{weight.shape[3]}"
            )
        vector = self.buffer("features", weight.shape[0], 1, 1)
        self.emit(
            self.global_depthwise("gdconv", state, vector, active.slope, weight[:, 0], bias, active.cap)
        )
        scale, shift = normalization(model.bn)
        projection = filters(model.conv3)[:, :, 0, 0] * scale[:, None]
        assert model.conv3.bias is not None
        shift = shift + model.conv3.bias.detach().cpu().double().numpy() * scale
        self.emit(self.linear("conv3", vector, projection, shift))


def lower_mobilefacenet(model: MobileFaceNet, bgr: bool, precision: str) -> Plan:
    """Lower a MobileFaceNet; see ``lower``, whose ``color`` is not the network's where ``bgr`` is true.

    Each step is a group of its own: the windows of one read rows that the step before has not made yet.
    """
    return _Lowering(precision).run(model, bgr)
