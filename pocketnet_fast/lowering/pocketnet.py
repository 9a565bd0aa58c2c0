"""Lowers a trained PocketNet of any genotype to a plan, by rewritings that lose nothing.

* Batch normalisation goes into the convolution before it, a depthwise 1x1 into the pointwise after it; all in
  float64.
* The edges of a node become one sum: their pointwise products share the accumulators and one bias.
* A concatenation never exists. It is read by the pre-processing of the next two cells and by the tail, which
  becomes a sum over the states it was made of, computed band by band together with the last of them.
* A state that nothing reads is not computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import nn

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.lowering.builder import PlanBuilder, array, filters, normalization
from pocketnet_fast.lowering.plan import BLOCK, NodeStep, Plan, StemStep, Step, Term, TermKind, blocks_of
from pocketnet_fast.lowering.rounding import Moments, expected_prelu, rounded
from pocketnet_fast.models.cells import Cell, DepthwiseSeparable, FactorizedReduce, Identity, Pool
from pocketnet_fast.models.pocketnet import PocketNet

# A concatenation, as the buffers that hold its parts.
Concatenation = Sequence[int]


def _slope(prelu: nn.Module, channels: int) -> np.ndarray:
    assert isinstance(prelu, nn.PReLU)
    return np.broadcast_to(array(prelu.weight), (channels,))


class _Contribution(NamedTuple):
    """Terms of a node, their share of its bias, and the moments of their sum."""

    terms: list[Term]
    bias: np.ndarray
    moments: Moments

    def plus(self, other: _Contribution) -> _Contribution:
        return _Contribution(
            self.terms + other.terms, self.bias + other.bias, self.moments.plus(other.moments)
        )


class _Lowering(PlanBuilder):
    def __init__(self, model: PocketNet, bgr: bool, bands: bool, precision: str) -> None:
        super().__init__(precision)
        self.model, self.bgr, self.bands = model, bgr, bands
        self.moments: dict[int, Moments] = {}

    def run(self) -> Plan:
        model = self.model
        height, width = model.input_spec.size
        cells = list(model.cells)
        outputs: list[Concatenation] = []

        stem = self.buffer("stem", 4 * model.channels, (height + 1) // 2, (width + 1) // 2)
        projections: dict[tuple[int, int], int] = {}
        self._emit_with_readers([self._stem(stem)], [stem], self._readers(-1), projections)
        for index, cell in enumerate(cells):
            assert isinstance(cell, Cell)
            steps, states = self._cell(index, cell, projections)
            concat = [states[i] for i in cell.concat]
            for step in steps[:-1]:
                self.emit(step)
            self._emit_with_readers(steps[-1:], concat, self._readers(index), projections)
            outputs.append(concat)
        self._tail(projections[len(cells), 1])
        return self.finish(model.model_name, model.input_spec.size, self.bgr, model.embedding_dim)

    def _readers(self, index: int) -> list[tuple[int, int]]:
        """The (cell, input) pairs that read cell ``index``; -1 is the stem, ``len(cells)`` the tail."""
        count = len(self.model.cells)
        readers = [(index + 1, 1), (index + 2, 0)]
        if index == -1:
            readers.insert(0, (0, 0))
        return [
            (cell, which)
            for cell, which in readers
            if (cell == count and which == 1) or (cell < count and self._is_read(cell, which))
        ]

    def _is_read(self, index: int, state: int) -> bool:
        cell = self.model.cells[index]
        assert isinstance(cell, Cell)
        return state in self._needed(cell)

    @staticmethod
    def _needed(cell: Cell) -> set[int]:
        needed = set(cell.concat)
        for node in range(len(cell.inputs) - 1, -1, -1):
            if node + 2 in needed:
                needed.update(cell.inputs[node])
        return needed

    def _stem(self, output: int) -> StemStep:
        conv, bn = self.model.stem[0], self.model.stem[1]
        scale, shift = normalization(bn)
        self.moments[output] = Moments.after(bn)
        weight = filters(conv) * scale[:, None, None, None]
        return self.stem("stem", output, weight, shift, self.model.input_spec)

    def _emit_with_readers(
        self,
        steps: Sequence[Step],
        concat: Concatenation,
        readers: Sequence[tuple[int, int]],
        projections: dict[tuple[int, int], int],
    ) -> None:
        """Emit the step that completes ``concat`` and, in its bands, every reader of the same resolution."""
        same_rows: list[Step] = list(steps)
        later: list[Step] = []
        for cell, which in readers:
            step = self._reader(cell, which, concat)
            projections[cell, which] = step.output
            reduces = any(term.stride != 1 for term in step.terms)
            (later if reduces else same_rows).append(step)
        if not self.bands:
            for each in same_rows + later:
                self.emit(each)
            return
        completed = steps[-1]
        assert isinstance(completed, StemStep | NodeStep)
        buffer = self.buffers[completed.output]
        rows = self.band_rows(completed.output)
        if not later and completed.output in concat and len(same_rows) > len(steps):
            buffer.in_band = True
            buffer.rows = rows
        self.emit_in_bands(same_rows, rows)
        for each in later:
            self.emit(each)

    def _reader(self, cell: int, which: int, concat: Concatenation) -> NodeStep:
        source = self.buffers[concat[0]]
        if cell == len(self.model.cells):
            prelu, conv, bn = self.model.tail[0], self.model.tail[1], self.model.tail[2]
            middle = filters(conv).shape[0]
            output = self.buffer("tail", middle, source.height, source.width)
            return self._node(
                "tail.0-2", output, self._pointwise(prelu, filters(conv)[:, :, 0, 0], bn, concat)
            )
        module = getattr(self.model.cells[cell], f"preproc{which}")
        name = f"cells.{cell}.preproc{which}"
        if isinstance(module, FactorizedReduce):
            channels = module.bn.num_features
            output = self.buffer(name, channels, source.height // 2, source.width // 2)
            contribution = self._factorized_reduce(module, concat)
        else:
            assert isinstance(module, DepthwiseSeparable)
            prelu, depthwise, pointwise, bn = module.net
            weight = filters(pointwise)[:, :, 0, 0] * filters(depthwise)[:, 0, 0, 0]
            output = self.buffer(name, weight.shape[0], source.height, source.width)
            contribution = self._pointwise(prelu, weight, bn, concat)
        return self._node(name, output, contribution)

    def _cell(
        self, index: int, cell: Cell, projections: dict[tuple[int, int], int]
    ) -> tuple[list[NodeStep], dict[int, int]]:
        needed = self._needed(cell)
        states: dict[int, int] = {i: projections[index, i] for i in (0, 1) if i in needed}
        channels = cell.channels_out // len(cell.concat)
        steps = []
        for number, edges in enumerate(cell.dag):
            if number + 2 not in needed:
                continue
            assert isinstance(edges, nn.ModuleList)
            none = np.zeros(channels)
            total = _Contribution([], none, Moments(none, none))
            sides = set()
            for edge, operation in enumerate(edges):
                source = states[cell.inputs[number][edge]]
                stride = 2 if cell.reduction and cell.inputs[number][edge] < 2 else 1
                total = total.plus(self._operation(operation, source, stride))
                buffer = self.buffers[source]
                sides.add((-(-buffer.height // stride), -(-buffer.width // stride)))
            assert len(sides) == 1, "the two edges of a node differ in size"
            height, width = sides.pop()
            output = self.buffer(f"cells.{index}.node{number}", channels, height, width)
            states[number + 2] = output
            steps.append(self._node(f"cells.{index}.dag.{number}", output, total))
        return steps, states

    def _operation(self, operation: nn.Module, source: int, stride: int) -> _Contribution:
        channels = self.buffers[source].channels
        if isinstance(operation, Identity):
            term = Term(TermKind.IDENTITY, source, out_blocks=blocks_of(channels))
            return _Contribution([term], np.zeros(channels), self.moments[source])
        if isinstance(operation, Pool):
            kind = TermKind.MAX_POOL if isinstance(operation.pool, nn.MaxPool2d) else TermKind.AVG_POOL
            scale, shift = normalization(operation.bn)
            offset = self.vector(scale)
            term = Term(kind, source, 3, stride, out_blocks=blocks_of(channels), scale=offset)
            return _Contribution([term], shift, Moments.after(operation.bn))
        if isinstance(operation, FactorizedReduce):
            return self._factorized_reduce(operation, [source])
        if not isinstance(operation, DepthwiseSeparable):
            raise PocketNetError(f"cannot lower an operation of type {type(operation).__name__}")
        prelu, depthwise, pointwise, bn = operation.net
        kernel = filters(depthwise).shape[2]
        weight = filters(pointwise)[:, :, 0, 0]
        if kernel == 1:
            return self._pointwise(prelu, weight * filters(depthwise)[:, 0, 0, 0], bn, [source], stride)
        scale, shift = normalization(bn)
        taps = filters(depthwise)[:, 0]
        weight = weight * scale[:, None]
        slope = _slope(prelu, channels)
        if self.precision == "bf16":
            change = rounded(weight) * rounded(taps).sum((1, 2)) - weight * taps.sum((1, 2))
            shift = shift - change @ expected_prelu(self.moments[source], slope)
        buffer = self.buffers[source]
        pixels = -(-buffer.height // stride) * -(-buffer.width // stride)
        term = Term(
            TermKind.DEPTHWISE,
            source,
            kernel,
            stride,
            out_blocks=blocks_of(weight.shape[0]),
            slope=self.vector(slope),
            depthwise=self.store.add(self.pack_depthwise(taps)),
            pointwise=self.store.add(self.pack_pointwise(weight)),
            macs=pixels * (channels * kernel * kernel + weight.size),
        )
        return _Contribution([term], shift, Moments.after(bn))

    def _pointwise(
        self, prelu: nn.Module, weight: np.ndarray, bn: nn.Module, concat: Concatenation, stride: int = 1
    ) -> _Contribution:
        scale, shift = normalization(bn)
        slope = _slope(prelu, weight.shape[1])
        weight = weight * scale[:, None]
        terms = self._pointwise_terms(slope, weight, concat, stride)
        return _Contribution(terms, shift - self._rounding_shift(weight, slope, concat), Moments.after(bn))

    def _rounding_shift(self, weight: np.ndarray, slope: np.ndarray, concat: Concatenation) -> np.ndarray:
        """By how much rounded pointwise weights shift the mean of their result."""
        if self.precision != "bf16":
            return np.zeros(weight.shape[0])
        expected = expected_prelu(Moments.joined([self.moments[part] for part in concat]), slope)
        shift: np.ndarray = (rounded(weight) - weight) @ expected
        return shift

    def _factorized_reduce(self, module: FactorizedReduce, concat: Concatenation) -> _Contribution:
        scale, shift = normalization(module.bn)
        terms: list[Term] = []
        shifts = []
        first = 0
        for branch, (depthwise, pointwise) in enumerate(
            ((module.conv11, module.conv12), (module.conv21, module.conv22))
        ):
            weight = filters(pointwise)[:, :, 0, 0] * filters(depthwise)[:, 0, 0, 0]
            last = first + weight.shape[0]
            slope = _slope(module.relu, weight.shape[1])
            weight = weight * scale[first:last, None]
            terms += self._pointwise_terms(slope, weight, concat, stride=2, shift=branch, first_channel=first)
            shifts.append(self._rounding_shift(weight, slope, concat))
            first = last
        return _Contribution(terms, shift - np.concatenate(shifts), Moments.after(module.bn))

    def _pointwise_terms(
        self,
        slope: np.ndarray,
        weight: np.ndarray,
        concat: Concatenation,
        stride: int = 1,
        shift: int = 0,
        first_channel: int = 0,
    ) -> list[Term]:
        """One term per part of ``concat``; ``weight`` holds the output channels from ``first_channel`` on."""
        first_block = first_channel // BLOCK
        rows = np.pad(weight, ((first_channel - first_block * BLOCK, 0), (0, 0)))
        terms = []
        at = 0
        for part in concat:
            buffer = self.buffers[part]
            columns = slice(at, at + buffer.channels)
            at += buffer.channels
            pixels = -(-buffer.height // stride) * -(-buffer.width // stride)
            terms.append(
                Term(
                    TermKind.POINTWISE,
                    part,
                    1,
                    stride,
                    shift,
                    first_block,
                    blocks_of(rows.shape[0]),
                    slope=self.vector(slope[columns]),
                    pointwise=self.store.add(self.pack_pointwise(rows[:, columns])),
                    macs=pixels * weight.shape[0] * buffer.channels,
                )
            )
        return terms

    def _node(self, name: str, output: int, contribution: _Contribution) -> NodeStep:
        terms, bias, self.moments[output] = contribution
        return self.node(name, output, terms, bias)

    def _tail(self, source: int) -> None:
        tail = self.model.tail
        buffer = self.buffers[source]
        scale, shift = normalization(tail[5])
        weight = filters(tail[4])[:, 0] * scale[:, None, None]
        if weight.shape[1:] != (buffer.height, buffer.width):
            raise PocketNetError(
                f"the last map is {buffer.height}x{buffer.width}; the tail's convolution needs "
                f"{weight.shape[1]}x{weight.shape[2]}"
            )
        vector = self.buffer("features", weight.shape[0], 1, 1)
        slope = _slope(tail[3], buffer.channels)
        self.emit(self.global_depthwise("tail.3-5", source, vector, slope, weight, shift))
        scale, shift = normalization(tail[7])
        projection = filters(tail[6])[:, :, 0, 0] * scale[:, None]
        self.emit(self.linear("tail.6-7", vector, projection, shift))


def lower_pocketnet(model: PocketNet, bgr: bool, bands: bool, precision: str) -> Plan:
    """Lower a PocketNet; see ``lower``, whose ``color`` is another than the network's where ``bgr`` is true.

    Raises:
        PocketNetError: The genotype goes beyond what the kernels take.
    """
    return _Lowering(model, bgr, bands, precision).run()
