"""The launches of ``pocketnet_fast::cell`` on CUDA: an operation's products, moments, sums and gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import torch
from torch import Tensor
from triton import next_power_of_2

from pocketnet_fast.ops.cell import triton_kernels as kernels
from pocketnet_fast.ops.cell.autograd import product_dtype
from pocketnet_fast.ops.cell.operands import Operands, Term
from pocketnet_fast.ops.cell.structure import Kind
from pocketnet_fast.ops.cell.triton_kernels.shared import RESIDUAL, SCALED
from pocketnet_fast.ops.cell.triton_tiles import MOST_MIXED, lane_tiles, product_tiles
from pocketnet_fast.ops.triton_tuning import Tiles, tiles_of

ResultT = TypeVar("ResultT")

# Rows of a table of partial sums, and channels, that one step of its reduction takes.
_TABLE: Final = {"RUNS": 32, "LANES": 16, "num_warps": 4}
_MODES: Final = {Kind.RESIDUAL: int(RESIDUAL.value), Kind.SCALED: int(SCALED.value)}

_MIXED: Final = (
    *((Kind.SEPARABLE, kernel) for kernel in (1, 3, 5, 7)),
    (Kind.MAX_POOL, 3),
    (Kind.AVG_POOL, 3),
)


def _window_kind(kind: Kind) -> int:
    """What ``cell_window_forward`` reads: a scaled state is taken as it is, as a normalised one."""
    return int(Kind.NORMALIZE if kind is Kind.SCALED else kind)


def _programs(device: torch.device) -> int:
    """Programs that keep a device busy; under the interpreter a few, so that it divides sums as well."""
    if device.type == "cpu":
        return 3
    return 8 * torch.cuda.get_device_properties(device).multi_processor_count


def _blocks(count: int, size: int) -> int:
    return -(-count // size)


@dataclass(frozen=True)
class _Runs:
    """How the pixels of a result are divided among programs: ``count`` runs of ``tiles`` tiles."""

    count: int
    tiles: int
    pixels: int

    @classmethod
    def of(cls, pixels: int, tile: int, columns: int, device: torch.device) -> _Runs:
        all_tiles = _blocks(pixels, tile)
        tiles = _blocks(all_tiles, max(1, _programs(device) // columns))
        return cls(_blocks(all_tiles, tiles), tiles, tiles * tile)


@dataclass(frozen=True)
class Products:
    """What an operation's first pass leaves.

    Attributes:
        values: pixels,out float32; the state itself where an operation takes it as it is.
        table: 2,runs,out float64 (see ``cell_products_forward``).
        runs: The runs of the table.
        filtered: pixels,in of the products' type, if it was kept.
        winners: pixels,channels int8 of a maximum.
    """

    values: Tensor
    table: Tensor
    runs: _Runs
    filtered: Tensor
    winners: Tensor


@dataclass(frozen=True)
class GradientSlice:
    """A sum's gradient, pixels,stride; an operation's own begin at ``first``."""

    values: Tensor
    stride: int
    first: int


class CellLaunches:
    """The launches of one call."""

    def __init__(self, given: Operands, states: Sequence[Tensor]) -> None:
        self.given, self.states, self.device = given, list(states), states[0].device
        self.dtype = product_dtype(self.device.type)
        tensor_cores = self.dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32
        self.precision = "tf32" if tensor_cores else "ieee"
        self.none = torch.empty(1, dtype=torch.float32, device=self.device)
        self.no_filtered = torch.empty(1, dtype=self.dtype, device=self.device)

    def empty(self, *size: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Memory on the device, whose content is written before it is read."""
        return torch.empty(size, dtype=dtype, device=self.device)

    def pixels(self, term: Term) -> int:
        """How many pixels the result of an operation has over all images."""
        return self.given.images * term.height * term.width

    def _places(self, term: Term) -> tuple[int, int, int, int, int]:
        source = term.source
        return self.pixels(term), source.height, source.width, term.height, term.width

    def _launched(
        self, kernel: str, term: Term, rule: Tiles, launch: Callable[[Tiles], ResultT], *facts: int
    ) -> ResultT:
        """What ``launch`` returns for the tiles that were measured for the term, or those of the rule."""
        o, source = term.operation, term.source
        types = str(self.dtype).removeprefix("torch."), self.precision
        shape = (
            o.parts, o.kernel, o.stride, source.channels, term.out, source.height, source.width,
            next_power_of_2(self.given.images), *types, *facts,
        )  # fmt: skip
        return launch(tiles_of(f"cell.{kernel}", shape, rule, self.device, launch))

    def _product_rule(self, kernel: str, channels: int, term: Term) -> Tiles:
        return product_tiles(kernel, channels, term.out, self.dtype)

    def _options(self, tiles: Tiles) -> dict[str, Any]:
        return {
            "PIXELS": tiles.pixels,
            "INNER": tiles.inner,
            "OUTER": tiles.outer,
            "PRECISION": self.precision,
            "num_warps": tiles.warps,
            "num_stages": tiles.stages,
        }

    @staticmethod
    def _lane_options(tiles: Tiles) -> dict[str, Any]:
        return {"PIXELS": tiles.pixels, "LANES": tiles.outer, "num_warps": tiles.warps}

    def products(self, term: Term, mean: Tensor, gradient: GradientSlice | None = None) -> Products:
        """The products of an operation, and the moments of its runs; with a gradient, that one's sums."""
        o, pixels = term.operation, self.pixels(term)
        backward = gradient is not None
        given = gradient or GradientSlice(self.none, 0, 0)
        parts = tuple(self.states[o.first_state : o.first_state + o.parts])
        if o.kind is Kind.SEPARABLE:
            slope, depthwise, pointwise = term.parameters[:3]
            keep = backward and o.kernel > 1

            def launch(tiles: Tiles) -> Products:
                columns = _blocks(term.out, tiles.outer)
                runs = _Runs.of(pixels, tiles.pixels, columns, self.device)
                filtered = self.no_filtered
                if keep:
                    filtered = self.empty(pixels, term.channels_in, dtype=self.dtype)
                found = Products(
                    self.empty(pixels, term.out), self._table(runs, term), runs, filtered, self.none
                )
                kernels.cell_products_forward[(runs.count, columns)](
                    parts, slope, depthwise, pointwise, filtered, found.values, given.values, mean,
                    found.table, *self._places(term), given.stride, given.first, runs.tiles,
                    CHANNELS=term.source.channels, OUT=term.out, KERNEL=o.kernel, STRIDE=o.stride,
                    OFFSET=o.offset, KEEP=keep, BACKWARD=backward, **self._options(tiles),
                )  # fmt: skip
                return found

            rule = self._product_rule("products", term.source.channels, term)
            return self._launched("products", term, rule, launch, int(backward))
        tiles = lane_tiles("window", term.out)
        columns = _blocks(term.out, tiles.outer)
        runs = _Runs.of(pixels, tiles.pixels, columns, self.device)
        pools = o.kind in (Kind.MAX_POOL, Kind.AVG_POOL)
        keep = backward and o.kind is Kind.MAX_POOL
        found = Products(
            self.empty(pixels, term.out) if pools else parts[0],
            self._table(runs, term),
            runs,
            self.no_filtered,
            self.empty(pixels, term.out, dtype=torch.int8) if keep else self.none,
        )
        kernels.cell_window_forward[(runs.count, columns)](
            parts[0], found.values, found.winners, given.values, mean, found.table,
            *self._places(term), given.stride, given.first, runs.tiles,
            CHANNELS=term.out, KIND=_window_kind(o.kind), STRIDE=o.stride,
            CENTRED=backward and o.kind.normalizes, BACKWARD=backward, **self._lane_options(tiles),
        )  # fmt: skip
        return found

    def mixed(
        self, edge: Sequence[Term], mean: Tensor, gradient: GradientSlice | None = None
    ) -> list[Products]:
        """Likewise of a mixed edge's operations together (see ``mixed_edges``), in their order.

        ``mean`` is that of all operations of the call.
        """
        first, pixels, backward = edge[0], self.pixels(edge[0]), gradient is not None
        given = gradient or GradientSlice(self.none, 0, 0)
        channels = first.out
        separable = [term.parameters[:3] for term in edge[:4]]
        slopes, depthwises, pointwises = (tuple(p[i] for p in separable) for i in range(3))
        rule = lane_tiles("mixed", channels)
        means = tuple(mean[t.first_moment : t.first_moment + channels] for t in edge)

        def launch(tiles: Tiles) -> list[Products]:
            runs = _Runs.of(pixels, tiles.pixels, 1, self.device)
            winners = self.empty(pixels, channels, dtype=torch.int8) if backward else self.none
            found = []
            for term in edge:
                keep = backward and term.operation.kind is Kind.SEPARABLE and term.operation.kernel > 1
                filtered = self.empty(pixels, channels, dtype=self.dtype) if keep else self.no_filtered
                values = self.empty(pixels, channels)
                found.append(Products(values, self._table(runs, term), runs, filtered, winners))
            kernels.cell_mixed_forward[(runs.count,)](
                self.states[first.operation.first_state], slopes, depthwises, pointwises,
                tuple(f.filtered for f in found[:4]), tuple(f.values for f in found), winners, given.values,
                means, tuple(f.table for f in found), *self._places(first), given.stride, given.first,
                runs.tiles, CHANNELS=channels, STRIDE=first.operation.stride, BACKWARD=backward,
                PRECISION=self.precision, **self._lane_options(replace(tiles, outer=rule.outer)),
            )  # fmt: skip
            return found

        # Whatever is measured, a program has all channels.
        return self._launched("mixed", first, rule, launch, int(backward))

    def _table(self, runs: _Runs, term: Term) -> Tensor:
        return self.empty(2, runs.count, term.out, dtype=torch.float64)

    def moments(self, term: Term, products: Products, mean: Tensor, variance: Tensor) -> Tensor:
        """Write the moments of the batch; returns scale and shift, 2,out."""
        vectors = self.empty(2, term.out)
        kernels.cell_moments_forward[(_blocks(term.out, _TABLE["LANES"]),)](
            products.table, *term.parameters[-2:], mean, variance, vectors,
            products.runs.count, self.pixels(term), products.runs.pixels, term.operation.epsilon,
            OUT=term.out, **_TABLE,
        )  # fmt: skip
        return vectors

    def add(self, terms: Sequence[Term], values: Sequence[Tensor], vectors: Sequence[Tensor]) -> Tensor:
        """A sum, N,C,H,W."""
        first = terms[0]
        size = self.given.states[self.given.inputs + first.operation.sum]
        result = torch.empty(
            (self.given.images, size.channels, size.height, size.width),
            dtype=torch.float32,
            device=self.device,
            memory_format=torch.channels_last,
        )
        tiles = lane_tiles("sum", size.channels)
        pixels = self.pixels(first)
        modes = sum(4**i * _MODES.get(term.operation.kind, 0) for i, term in enumerate(terms))
        kernels.cell_sum_forward[(_blocks(pixels, tiles.pixels), _blocks(size.channels, tiles.outer))](
            tuple(values), tuple(vectors), tuple(term.operation.first_out for term in terms),
            tuple(term.out for term in terms), result, pixels, CHANNELS=size.channels, MODES=modes,
            **self._lane_options(tiles),
        )  # fmt: skip
        return result

    def factors(
        self, term: Term, products: Products, mean: Tensor, variance: Tensor, results: Sequence[Tensor]
    ) -> Tensor:
        """Factors of the products' gradient, 4,out; writes the gradients of what follows the products."""
        if term.operation.kind is Kind.SCALED:
            results[0].copy_(products.table[1].sum(0))
            factors = torch.zeros((4, term.out), dtype=torch.float32, device=self.device)
            factors[1] = term.parameters[0]
            return factors
        factors = self.empty(4, term.out)
        kernels.cell_factors_backward[(_blocks(term.out, _TABLE["LANES"]),)](
            products.table, term.parameters[-2], mean, variance, factors, *results[-2:],
            products.runs.count, self.pixels(term), term.operation.epsilon, OUT=term.out, **_TABLE,
        )  # fmt: skip
        return factors

    def differentiate(
        self,
        term: Term,
        products: Products,
        gradient: GradientSlice,
        mean: Tensor,
        variance: Tensor,
        results: Sequence[Tensor],
        grad_states: list[Tensor | None],
    ) -> None:
        """Write the gradients of an operation's parameters, and add to those of the states that it reads."""
        factors = self.factors(term, products, mean, variance, results)
        source = gradient.values, products.values, factors
        if term.operation.kind is Kind.SEPARABLE:
            self._differentiate_separable(term, gradient, products, source, results, grad_states)
            return
        o = term.operation
        tiles = lane_tiles("window_gradient", term.out)
        out, accumulate = self.gradient_of(o.first_state, grad_states)
        pixels = self.given.images * term.source.height * term.source.width
        kernels.cell_window_backward[(_blocks(pixels, tiles.pixels), _blocks(term.out, tiles.outer))](
            *source, products.winners, out, pixels, *self._places(term)[1:], gradient.stride, gradient.first,
            CHANNELS=term.out, KIND=_window_kind(o.kind), STRIDE=o.stride, ACCUMULATE=accumulate,
            **self._lane_options(tiles),
        )  # fmt: skip

    def gradient_of(self, index: int, grad_states: list[Tensor | None]) -> tuple[Tensor, bool]:
        """The gradient of a state, and whether it has been written."""
        found = grad_states[index]
        if found is not None:
            return found, True
        found = torch.empty_like(self.states[index], memory_format=torch.channels_last)
        grad_states[index] = found
        return found, False

    def _differentiate_separable(
        self,
        term: Term,
        gradient: GradientSlice,
        products: Products,
        source: tuple[Tensor, Tensor, Tensor],
        results: Sequence[Tensor],
        grad_states: list[Tensor | None],
    ) -> None:
        o, inner, channels = term.operation, term.channels_in, term.source.channels
        slope, depthwise, pointwise = term.parameters[:3]
        window = {"STRIDE": o.stride, "OFFSET": o.offset}
        pixels = self.pixels(term)

        # One launch for the whole of what was kept, or one a state.
        kept = o.kernel > 1
        width = inner if kept else channels

        def weights(tiles: Tiles) -> Tensor:
            rows, columns = _blocks(term.out, tiles.outer), _blocks(width, tiles.inner)
            runs = _Runs.of(pixels, tiles.pixels, rows * columns, self.device)
            table = self.empty(runs.count, term.out, inner)
            for part in range(1 if kept else o.parts):
                kernels.cell_pointwise_backward[(runs.count, rows, columns)](
                    self.states[o.first_state + part], slope, depthwise, products.filtered, *source, table,
                    *self._places(term), gradient.stride, gradient.first, part * channels, runs.tiles,
                    CHANNELS=width, IN=inner, OUT=term.out, KEPT=kept, **window, **self._options(tiles),
                )  # fmt: skip
            return table

        rule = self._product_rule("pointwise_weight", width, term)
        table = self._launched("pointwise_weight", term, rule, weights)
        results[2].copy_(_total(table).view_as(results[2]))

        # What was kept has been read for the last time.
        by_filtered = products.filtered if kept else self.empty(pixels, inner, dtype=self.dtype)

        def filtered(tiles: Tiles) -> None:
            kernels.cell_filtered_backward[(_blocks(pixels, tiles.pixels), _blocks(inner, tiles.inner))](
                pointwise, *source, by_filtered, pixels, gradient.stride, gradient.first,
                IN=inner, OUT=term.out, **self._options(tiles),
            )  # fmt: skip

        rule = self._product_rule("filtered_gradient", inner, term)
        self._launched("filtered_gradient", term, rule, filtered)

        read_pixels = self.given.images * term.source.height * term.source.width
        targets = [self.gradient_of(o.first_state + part, grad_states) for part in range(o.parts)]

        def states(tiles: Tiles) -> tuple[Tensor, Tensor]:
            count = _blocks(read_pixels, tiles.pixels)
            slopes, filters = self.empty(count, inner), self.empty(count, inner, o.kernel * o.kernel)
            for part, (out, accumulate) in enumerate(targets):
                kernels.cell_depthwise_backward[(count, _blocks(channels, tiles.outer))](
                    self.states[o.first_state + part], slope, depthwise, by_filtered, out, slopes, filters,
                    read_pixels, *self._places(term)[1:], part * channels,
                    CHANNELS=channels, IN=inner, KERNEL=o.kernel, ACCUMULATE=accumulate,
                    **window, **self._lane_options(tiles),
                )  # fmt: skip
            return slopes, filters

        rule = lane_tiles("depthwise_gradient", channels)
        slopes, filters = self._launched("depthwise_gradient", term, rule, states)
        results[0].copy_(_total(slopes))
        results[1].copy_(_total(filters).view_as(results[1]))


def mixed_edges(terms: Sequence[Term]) -> list[list[Term]]:
    """The operations of a sum that one kernel computes together.

    They read the same state with the same stride: separable convolutions of kernels 1, 3, 5 and 7, then
    maximum and average; each of the state's channels, at most ``MOST_MIXED``, to the sum's first ones.
    """
    found: dict[tuple[int, int], dict[tuple[Kind, int], Term]] = {}
    for term in terms:
        o = term.operation
        if (o.parts, o.offset, o.first_out) == (1, 0, 0) and term.out == term.source.channels <= MOST_MIXED:
            found.setdefault((o.first_state, o.stride), {}).setdefault((o.kind, o.kernel), term)
    return [
        [edge[role] for role in _MIXED] for edge in found.values() if all(role in edge for role in _MIXED)
    ]


class SumProducts:
    """The products of a sum's operations, those of a mixed edge at the first of them that is asked for.

    Each is kept until it is asked for: backwards, up to six products of an edge and three filtered states.
    """

    def __init__(
        self, cell: CellLaunches, terms: Sequence[Term], mean: Tensor, grad: Tensor | None = None
    ) -> None:
        self.cell, self.mean, self.grad = cell, mean, grad
        self.edges = {id(term): edge for edge in mixed_edges(terms) for term in edge}
        self.ready: dict[int, Products] = {}

    def of(self, term: Term) -> Products:
        """The products of one operation."""
        gradient = None
        if self.grad is not None:
            gradient = GradientSlice(self.grad, self.grad.shape[1], term.operation.first_out)
        edge = self.edges.get(id(term))
        if edge is None:
            own = self.mean[term.first_moment : term.first_moment + term.out]
            return self.cell.products(term, own, gradient)
        if id(term) not in self.ready:
            found = self.cell.mixed(edge, self.mean, gradient)
            self.ready.update({id(t): products for t, products in zip(edge, found, strict=True)})
        return self.ready.pop(id(term))


def _total(table: Tensor) -> Tensor:
    """The sum over programs, in float64."""
    return table.sum(0, dtype=torch.float64)
