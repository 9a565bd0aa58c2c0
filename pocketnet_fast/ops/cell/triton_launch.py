"""``pocketnet_fast::cell`` for CUDA, by the kernels of ``triton_kernels``.

Every operation of a sum writes its products and the moments of runs of tiles, one launch; a second combines
the moments; then one launch adds the sum's operations up. The candidate operations of a searched edge, which
read one state, share the first launch. Backwards, sum by sum from the last: the products are computed again,
with the sums of the gradient that their own gradient needs; then the weights' and the states' gradients,
which are gathered pixel by pixel. Nothing but states and moments lives longer than the operation. Products
are float32 by the ordinary units, or by the tensor cores where ``torch.backends.cuda.matmul.allow_tf32``
permits; autocast's type, where it is on, holds for the operands of matrix products and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from triton import next_power_of_2

from pocketnet_fast.ops.cell import triton_kernels as kernels
from pocketnet_fast.ops.cell.autograd import NAME, autocast_to, product_dtype, register
from pocketnet_fast.ops.cell.operands import Operands, Term, read, require
from pocketnet_fast.ops.cell.structure import Kind, Operation, encode
from pocketnet_fast.ops.cell.triton_tiles import MOST_MIXED, lane_tiles, product_tiles
from pocketnet_fast.ops.triton_numerics import INTERPRETED
from pocketnet_fast.ops.triton_tuning import Tiles, tiles_of

ResultT = TypeVar("ResultT")

# Rows of a table of partial sums, and channels, that one step of its reduction takes.
_TABLE: Final = {"RUNS": 32, "LANES": 16, "num_warps": 4}
_MODES: Final = {Kind.RESIDUAL: int(kernels.RESIDUAL.value), Kind.SCALED: int(kernels.SCALED.value)}

_MIXED: Final = (
    *((Kind.SEPARABLE, kernel) for kernel in (1, 3, 5, 7)),
    (Kind.MAX_POOL, 3),
    (Kind.AVG_POOL, 3),
)


def _window_kind(kind: Kind) -> int:
    """What ``window_kernel`` reads: a scaled state is taken as it is, as a normalised one."""
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
class _Products:
    """What an operation's first pass leaves.

    Attributes:
        values: pixels,out float32; the state itself where an operation takes it as it is.
        table: 2,runs,out float64 (see ``products_kernel``).
        runs: Of the table.
        filtered: pixels,in of the products' type, if it was kept.
        winners: pixels,channels int8 of a maximum.
    """

    values: Tensor
    table: Tensor
    runs: _Runs
    filtered: Tensor
    winners: Tensor


@dataclass(frozen=True)
class _Slice:
    """A sum's gradient, pixels,stride; an operation's own begin at ``first``."""

    values: Tensor
    stride: int
    first: int


class _Cell:
    """The launches of one call."""

    def __init__(self, given: Operands, states: Sequence[Tensor]) -> None:
        self.given, self.states, self.device = given, list(states), states[0].device
        self.dtype = product_dtype(self.device.type)
        tensor_cores = self.dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32
        self.precision = "tf32" if tensor_cores else "ieee"
        self.none = torch.empty(1, dtype=torch.float32, device=self.device)
        self.no_filtered = torch.empty(1, dtype=self.dtype, device=self.device)

    def empty(self, *size: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(size, dtype=dtype, device=self.device)

    def pixels(self, term: Term) -> int:
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

    def products(self, term: Term, mean: Tensor, gradient: _Slice | None = None) -> _Products:
        """The products of an operation, and the moments of its runs; with a gradient, that one's sums."""
        o, pixels = term.operation, self.pixels(term)
        backward = gradient is not None
        given = gradient or _Slice(self.none, 0, 0)
        parts = tuple(self.states[o.first_state : o.first_state + o.parts])
        if o.kind is Kind.SEPARABLE:
            slope, depthwise, pointwise = term.parameters[:3]
            keep = backward and o.kernel > 1

            def launch(tiles: Tiles) -> _Products:
                columns = _blocks(term.out, tiles.outer)
                runs = _Runs.of(pixels, tiles.pixels, columns, self.device)
                filtered = self.no_filtered
                if keep:
                    filtered = self.empty(pixels, term.channels_in, dtype=self.dtype)
                found = _Products(
                    self.empty(pixels, term.out), self._table(runs, term), runs, filtered, self.none
                )
                kernels.products_kernel[(runs.count, columns)](
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
        found = _Products(
            self.empty(pixels, term.out) if pools else parts[0],
            self._table(runs, term),
            runs,
            self.no_filtered,
            self.empty(pixels, term.out, dtype=torch.int8) if keep else self.none,
        )
        kernels.window_kernel[(runs.count, columns)](
            parts[0], found.values, found.winners, given.values, mean, found.table,
            *self._places(term), given.stride, given.first, runs.tiles,
            CHANNELS=term.out, KIND=_window_kind(o.kind), STRIDE=o.stride,
            CENTRED=backward and o.kind.normalizes, BACKWARD=backward, **self._lane_options(tiles),
        )  # fmt: skip
        return found

    def mixed(self, edge: Sequence[Term], mean: Tensor, gradient: _Slice | None = None) -> list[_Products]:
        """Likewise of a mixed edge's operations together (see ``mixed_edges``), in their order.

        ``mean`` is that of all operations of the call.
        """
        first, pixels, backward = edge[0], self.pixels(edge[0]), gradient is not None
        given = gradient or _Slice(self.none, 0, 0)
        channels = first.out
        separable = [term.parameters[:3] for term in edge[:4]]
        slopes, depthwises, pointwises = (tuple(p[i] for p in separable) for i in range(3))
        rule = lane_tiles("mixed", channels)
        means = tuple(mean[t.first_moment : t.first_moment + channels] for t in edge)

        def launch(tiles: Tiles) -> list[_Products]:
            runs = _Runs.of(pixels, tiles.pixels, 1, self.device)
            winners = self.empty(pixels, channels, dtype=torch.int8) if backward else self.none
            found = []
            for term in edge:
                keep = backward and term.operation.kind is Kind.SEPARABLE and term.operation.kernel > 1
                filtered = self.empty(pixels, channels, dtype=self.dtype) if keep else self.no_filtered
                values = self.empty(pixels, channels)
                found.append(_Products(values, self._table(runs, term), runs, filtered, winners))
            kernels.mixed_kernel[(runs.count,)](
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

    def moments(self, term: Term, products: _Products, mean: Tensor, variance: Tensor) -> Tensor:
        """Write the moments of the batch; returns scale and shift, 2,out."""
        vectors = self.empty(2, term.out)
        kernels.moments_kernel[(_blocks(term.out, _TABLE["LANES"]),)](
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
        kernels.sum_kernel[(_blocks(pixels, tiles.pixels), _blocks(size.channels, tiles.outer))](
            tuple(values), tuple(vectors), tuple(term.operation.first_out for term in terms),
            tuple(term.out for term in terms), result, pixels, CHANNELS=size.channels, MODES=modes,
            **self._lane_options(tiles),
        )  # fmt: skip
        return result

    def factors(
        self, term: Term, products: _Products, mean: Tensor, variance: Tensor, results: Sequence[Tensor]
    ) -> Tensor:
        """Factors of the products' gradient, 4,out; writes the gradients of what follows the products."""
        if term.operation.kind is Kind.SCALED:
            results[0].copy_(products.table[1].sum(0))
            factors = torch.zeros((4, term.out), dtype=torch.float32, device=self.device)
            factors[1] = term.parameters[0]
            return factors
        factors = self.empty(4, term.out)
        kernels.factors_kernel[(_blocks(term.out, _TABLE["LANES"]),)](
            products.table, term.parameters[-2], mean, variance, factors, *results[-2:],
            products.runs.count, self.pixels(term), term.operation.epsilon, OUT=term.out, **_TABLE,
        )  # fmt: skip
        return factors

    def differentiate(
        self,
        term: Term,
        products: _Products,
        gradient: _Slice,
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
        out, accumulate = self._grad_state(o.first_state, grad_states)
        pixels = self.given.images * term.source.height * term.source.width
        kernels.window_gradient_kernel[(_blocks(pixels, tiles.pixels), _blocks(term.out, tiles.outer))](
            *source, products.winners, out, pixels, *self._places(term)[1:], gradient.stride, gradient.first,
            CHANNELS=term.out, KIND=_window_kind(o.kind), STRIDE=o.stride, ACCUMULATE=accumulate,
            **self._lane_options(tiles),
        )  # fmt: skip

    def _grad_state(self, index: int, grad_states: list[Tensor | None]) -> tuple[Tensor, bool]:
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
        gradient: _Slice,
        products: _Products,
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
                kernels.pointwise_weight_kernel[(runs.count, rows, columns)](
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
            kernels.filtered_gradient_kernel[(_blocks(pixels, tiles.pixels), _blocks(inner, tiles.inner))](
                pointwise, *source, by_filtered, pixels, gradient.stride, gradient.first,
                IN=inner, OUT=term.out, **self._options(tiles),
            )  # fmt: skip

        rule = self._product_rule("filtered_gradient", inner, term)
        self._launched("filtered_gradient", term, rule, filtered)

        read_pixels = self.given.images * term.source.height * term.source.width
        targets = [self._grad_state(o.first_state + part, grad_states) for part in range(o.parts)]

        def states(tiles: Tiles) -> tuple[Tensor, Tensor]:
            count = _blocks(read_pixels, tiles.pixels)
            slopes, filters = self.empty(count, inner), self.empty(count, inner, o.kernel * o.kernel)
            for part, (out, accumulate) in enumerate(targets):
                kernels.depthwise_gradient_kernel[(count, _blocks(channels, tiles.outer))](
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


class _Source:
    """The products of a sum's operations, those of a mixed edge at the first of them that is asked for.

    Each is kept until it is asked for: backwards, up to six products of an edge and three filtered states.
    """

    def __init__(self, cell: _Cell, terms: Sequence[Term], mean: Tensor, grad: Tensor | None = None) -> None:
        self.cell, self.mean, self.grad = cell, mean, grad
        self.edges = {id(term): edge for edge in mixed_edges(terms) for term in edge}
        self.ready: dict[int, _Products] = {}

    def of(self, term: Term) -> _Products:
        gradient = None
        if self.grad is not None:
            gradient = _Slice(self.grad, self.grad.shape[1], term.operation.first_out)
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


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def forward(
    inputs: list[Tensor], parameters: list[Tensor], structure: list[int], epsilon: list[float]
) -> tuple[list[Tensor], Tensor, Tensor]:
    """The operator as ``cpu.cell`` describes it.

    Raises:
        RuntimeError: As on the CPU.
    """
    given = read(inputs, parameters, structure, epsilon)
    mean = torch.zeros(given.moments, dtype=torch.float64, device=inputs[0].device)
    variance = torch.zeros_like(mean)
    with torch.cuda.device_of(inputs[0]):
        cell = _Cell(given, [_channels_last(x) for x in inputs])
        for total in range(len(given.states) - given.inputs):
            if given.images == 0:
                size = given.states[given.inputs + total]
                empty = mean.new_empty((0, size.channels, size.height, size.width), dtype=torch.float32)
                cell.states.append(_channels_last(empty))
                continue
            terms = given.of_sum(total)
            values, vectors, source = [], [], _Source(cell, terms, mean)
            for term in terms:
                if not term.operation.kind.normalizes:
                    values.append(cell.states[term.operation.first_state])
                    vectors.append(term.parameters[0] if term.parameters else cell.none)
                    continue
                own = slice(term.first_moment, term.first_moment + term.out)
                products = source.of(term)
                values.append(products.values)
                vectors.append(cell.moments(term, products, mean[own], variance[own]))
            cell.states.append(cell.add(terms, values, vectors))
    return cell.states[given.inputs :], mean, variance


def backward(
    grads: list[Tensor],
    states: list[Tensor],
    parameters: list[Tensor],
    mean: Tensor,
    variance: Tensor,
    structure: list[int],
    epsilon: list[float],
) -> list[Tensor]:
    """Gradients of inputs and parameters; an empty vector in ``grads`` stands for one that is zero.

    Raises:
        RuntimeError: As ``forward``.
    """
    require(len(states) > len(grads), "states must be the inputs and the sums")
    given = read(states[: len(states) - len(grads)], parameters, structure, epsilon)
    require(
        len(given.states) == len(states),
        f"there are {len(grads)} gradients for {len(given.states) - given.inputs} sums",
    )
    for index, (state, size) in enumerate(zip(states, given.states, strict=True)):
        shape = given.images, size.channels, size.height, size.width
        require(tuple(state.shape) == shape, f"state {index} has the shape {list(state.shape)}")
        if index >= given.inputs:
            outer = grads[index - given.inputs]
            require(
                outer.dtype == torch.float32 and (outer.numel() == 0 or tuple(outer.shape) == shape),
                f"the gradient of sum {index - given.inputs} is {outer.dtype} {list(outer.shape)}",
            )
    results = [torch.zeros(p.shape, dtype=torch.float32, device=p.device) for p in parameters]
    with torch.cuda.device_of(states[0]):
        cell = _Cell(given, [_channels_last(x) for x in states])
        grad_states: list[Tensor | None] = [None] * len(states)
        for total in reversed(range(len(grads))):
            index = given.inputs + total
            grad, grad_states[index] = grad_states[index], None
            if grads[total].numel() > 0:
                outer = _channels_last(grads[total])
                grad = outer if grad is None else grad.add_(outer)
            if grad is None:
                continue
            terms = given.of_sum(total)
            source = _Source(cell, terms, mean, grad)
            for term in terms:
                o = term.operation
                if o.kind is Kind.RESIDUAL:
                    sources, accumulate = cell._grad_state(o.first_state, grad_states)
                    sources.add_(grad) if accumulate else sources.copy_(grad)
                    continue
                channels = slice(term.first_moment, term.first_moment + term.out)
                own = [
                    results[term.first_parameter + i][term.first_channel :][: len(p)]
                    for i, p in enumerate(term.parameters)
                ]
                gradient = _Slice(grad, given.states[index].channels, o.first_out)
                cell.differentiate(
                    term, source.of(term), gradient, mean[channels], variance[channels], own, grad_states
                )
        found = [
            torch.zeros_like(state, memory_format=torch.channels_last) if grad is None else grad
            for state, grad in zip(states[: given.inputs], grad_states, strict=False)
        ]
    return found + results


class _Interpreted(torch.autograd.Function):
    """The operator on CPU tensors, where the dispatcher would choose the C++ kernels."""

    @staticmethod
    def forward(
        ctx: Any, inputs: int, structure: list[int], epsilon: list[float], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        given, parameters = list(tensors[:inputs]), list(tensors[inputs:])
        sums, mean, variance = forward(given, parameters, structure, epsilon)
        ctx.inputs, ctx.sums, ctx.structure, ctx.epsilon = inputs, len(sums), structure, epsilon
        ctx.product_dtype = product_dtype("cpu")
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*given, *sums, *parameters, mean, variance)
        return *sums, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        *tensors, mean, variance = ctx.saved_tensors
        states = ctx.inputs + ctx.sums
        given = [mean.new_empty(0, dtype=torch.float32) if g is None else g for g in grads[: ctx.sums]]
        with autocast_to(ctx.product_dtype, "cpu"):
            found = backward(
                given, tensors[:states], tensors[states:], mean, variance, ctx.structure, ctx.epsilon
            )
        return None, None, None, *found


def cell(
    inputs: Sequence[Tensor], parameters: Sequence[Tensor], operations: Sequence[Operation]
) -> tuple[list[Tensor], Tensor, Tensor]:
    """As ``cpu.cell``, on CUDA, or under Triton's interpreter on the CPU.

    Equal inputs give equal bits on equal devices. Where autocast is on for the device, its type is that of
    the operands of matrix products, in the backward pass of the call too; states, sums and moments are as
    without.

    Raises:
        RuntimeError: As on the CPU.
    """
    structure, epsilon = encode(operations)
    if INTERPRETED.value and inputs and inputs[0].device.type == "cpu":
        *sums, mean, variance = _Interpreted.apply(len(inputs), structure, epsilon, *inputs, *parameters)
        return sums, mean, variance
    sums, mean, variance = torch.ops.pocketnet_fast.cell(list(inputs), list(parameters), structure, epsilon)
    return sums, mean, variance


register()
torch.library.impl(NAME, "cuda", forward)
torch.library.impl(f"{NAME}_backward", "cuda", backward)
