"""Lowers YuNet to a plan whose result are its maps, for images of any size.

A unit's product has no activation behind it and its depthwise convolution none before it, so the units are
regrouped: a step is a depthwise convolution, its ReLU, a pool where one follows, and the product of the unit
after it. What several units read is the state after a depthwise convolution alone. A product of a sum is the
sum of the products, of which that of the coarser state is made before it is enlarged.
"""

from __future__ import annotations

import numpy as np
from torch import nn

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.lowering.builder import Activation, PlanBuilder, array, check_choices, filters
from pocketnet_fast.lowering.plan import Plan, Term, TermKind, blocks_of
from pocketnet_fast.models.yunet import CHANNELS, STRIDES, SeparableUnit, YuNet

_SIZE = (320, 320)
# Of the state of stride 8, at a time: at 640 pixels a side, four. The states before it are larger than a
# second-level cache there, and the network takes 5.0 instead of 5.7 ms on a core of an AMD EPYC (Zen 5) with
# 1 MiB; at 320 as long.
_ROLLING_ROWS = 8


def _product(unit: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    assert isinstance(unit, SeparableUnit)
    return filters(unit.pointwise)[:, :, 0, 0], array(unit.pointwise.bias)


class _Lowering(PlanBuilder):
    def step(self, name: str, like: int, terms: list[Term], bias: np.ndarray, shrink: int = 1) -> int:
        """Emit a sum of the size of another state, or of a part of its sides."""
        state = self.buffers[like]
        output = self.buffer(name, len(bias), state.height // shrink, state.width // shrink)
        self.emit(self.node(name, output, terms, bias))
        return output

    def filtered(self, unit: nn.Module, source: int, weight: np.ndarray | None, pooled: bool = False) -> Term:
        """A unit's depthwise convolution and ReLU, a pool, and the product after it, if they follow."""
        assert isinstance(unit, SeparableUnit)
        channels = unit.depthwise.out_channels
        middle = Activation(np.zeros(channels) if unit.active else np.ones(channels))
        taps, bias = filters(unit.depthwise)[:, 0], array(unit.depthwise.bias)
        return self.depthwise(source, taps, weight, bias=bias, middle=middle, pooled=pooled)

    def state_of(self, name: str, unit: nn.Module, product: int) -> int:
        """What a unit gives, from its product."""
        channels = self.buffers[product].channels
        return self.step(name, product, [self.filtered(unit, product, None)], np.zeros(channels))

    def next_product(self, name: str, unit: nn.Module, product: int, following: nn.Module) -> int:
        """The product of the unit after one, from that of the one."""
        weight, bias = _product(following)
        return self.step(name, product, [self.filtered(unit, product, weight)], bias)

    def pooled_product(self, name: str, state: int, unit: nn.Module) -> int:
        """The product of a unit behind a pool of a state."""
        weight, bias = _product(unit)
        return self.step(name, state, [self.pointwise(state, weight, pooled=True)], bias, shrink=2)

    def next_pooled_product(self, name: str, unit: nn.Module, product: int, following: nn.Module) -> int:
        """The product of the unit after one and a pool, from the product of the one."""
        weight, bias = _product(following)
        return self.step(name, product, [self.filtered(unit, product, weight, pooled=True)], bias, shrink=2)

    def merged_product(self, name: str, unit: nn.Module, state: int, coarser: int) -> int:
        """The product of a state and the coarser one."""
        weight, bias = _product(unit)
        channels = weight.shape[0]
        small = self.step(f"{name}.coarser", coarser, [self.pointwise(coarser, weight)], np.zeros(channels))
        enlarged = Term(TermKind.UPSAMPLED, small, out_blocks=blocks_of(channels))
        return self.step(name, state, [self.pointwise(state, weight), enlarged], bias)

    def run(self, model: YuNet, size: tuple[int, int], bgr: bool) -> Plan:
        first = self._beginning(model, size)
        product = self.next_pooled_product("stages.0.0", model.first, first, self._unit(model, 0, 0))
        states = []
        last = len(model.stages) - 1
        for number in range(last + 1):
            one, two = self._unit(model, number, 0), self._unit(model, number, 1)
            product = self.next_product(f"stages.{number}.1", one, product, two)
            if number == 0:
                product = self.next_product("stages.1.0", two, product, self._unit(model, 1, 0))
            elif number == 1:
                product = self.next_pooled_product("stages.2.0", two, product, self._unit(model, 2, 0))
            elif number == last:
                product = self.next_product("laterals.2", two, product, model.laterals[2])
            else:
                # The state is merged with coarser ones later.
                states.append(self.state_of(f"stages.{number}", two, product))
                if len(states) == 1:
                    self.roll(0, _ROLLING_ROWS)
                following = self._unit(model, number + 1, 0)
                product = self.pooled_product(f"stages.{number + 1}.0", states[-1], following)
        maps: dict[int, int] = {}
        coarser = -1
        for level in (2, 1, 0):
            if level < 2:
                product = self.merged_product(
                    f"laterals.{level}", model.laterals[level], states[level], coarser
                )
            head, lateral = model.heads[level], model.laterals[level]
            if level > 0:
                coarser = self.state_of(f"merged.{level}", lateral, product)
                weight, bias = _product(head)
                product_of_head = self.step(
                    f"heads.{level}.product", coarser, [self.pointwise(coarser, weight)], bias
                )
            else:
                product_of_head = self.next_product("heads.0.product", lateral, product, head)
            maps[level] = self.state_of(f"heads.{level}", head, product_of_head)
        results = 0
        for level, buffer in sorted(maps.items()):
            state_of_map = self.buffers[buffer]
            results += CHANNELS * state_of_map.height * state_of_map.width
            self.emit(self.map(f"maps.{level}", buffer, CHANNELS))
        return self.finish("yunet", size, bgr, results, unit=STRIDES[-1])

    def _beginning(self, model: YuNet, size: tuple[int, int]) -> int:
        height, width = size
        stem = self.buffer("stem", 16, height // 2, width // 2)
        weight, bias = _product(model.first)
        product = self.buffer("first.product", weight.shape[0], height // 2, width // 2)
        relu = Activation(np.zeros(16))
        self.emit(self.stem("stem", stem, filters(model.stem), array(model.stem.bias), model.input_spec))
        self.emit(self.node("first.product", product, [self.pointwise(stem, weight, relu)], bias))
        return product

    @staticmethod
    def _unit(model: YuNet, stage: int, number: int) -> nn.Module:
        units = model.stages[stage]
        assert isinstance(units, nn.Sequential)
        return units[number]


def lower_detector(
    model: YuNet, *, size: tuple[int, int] = _SIZE, color: str = "rgb", precision: str = "fp32"
) -> Plan:
    """Lower YuNet to a plan.

    Args:
        model: The detector; it is not changed.
        size: Height and width of the images, multiples of 32.
        color: Channel order of uint8 images, ``"rgb"`` or ``"bgr"``.
        precision: As in ``lower``.

    Returns:
        A plan for images of that size, and by its unit for all others of multiples of 32; its result are the
        maps of strides 8, 16 and 32, one behind another, height x width x 16 each.

    Raises:
        PocketNetError: Another channel order or precision, or a size of no multiples.
    """
    check_choices(color, precision)
    if any(side < 1 or side % STRIDES[-1] for side in size):
        raise PocketNetError(f"images of {size[0]} x {size[1]}; expected multiples of {STRIDES[-1]}")
    return _Lowering(precision).run(model, size, color != model.input_spec.color)
