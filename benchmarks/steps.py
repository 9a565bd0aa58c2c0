"""Time every step of the published networks alone against eager PyTorch, on one thread.

Shapes come from tests/shapes/pocketnet_steps.json. Ours is timed inside a small plan by the executor's own
clock, which counts only that step: it finds the states that it reads in the caches, as the step before leaves
them. Eager does the same operations, without batch normalisation, on tensors that lie in the caches too, and
is handed concatenations for nothing.

    python benchmarks/steps.py --network pocketnet_s128 --json runs/steps.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import tests_path  # noqa: F401
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from shapes import NETWORKS
from step_shapes import StateShape, StepShape, TermShape, build_plan, read_shapes
from subjects import limit_threads
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from pocketnet_fast.lowering.plan import BLOCK
from pocketnet_fast.lowering.profile import peak_gflops
from pocketnet_fast.ops.native import compiled_isa, extension
from pocketnet_fast.ops.run_plan import run_plan
from pocketnet_fast.ops.run_plan.reference import run_plan_reference

FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
Timer = Callable[[], float]


class Ours:
    """The step on the fused kernels."""

    def __init__(self, shape: StepShape) -> None:
        plan, self._index = build_plan(shape)
        program, weights = plan.encode()
        generator = torch.Generator().manual_seed(0)
        size = (1, plan.height, plan.width, 3)
        pixels = torch.randint(126, 131, size, dtype=torch.uint8, generator=generator)
        expected = run_plan_reference(pixels, program, weights)
        if not torch.equal(run_plan(pixels, program, weights, plan.results).double(), expected):
            raise RuntimeError(f"wrong result, not timed: {shape}")
        self._arguments = (program.numpy(), weights.numpy(), pixels.numpy())

    def __call__(self) -> float:
        """Seconds of one run of the step."""
        seconds: list[float] = extension().profile(*self._arguments)
        return seconds[self._index]


def _as_eager_groups(shape: StepShape) -> list[list[TermShape]]:
    """The terms of a node as eager runs them: consecutive products of one kind share a concatenation."""

    def product(indexed: tuple[int, TermShape]) -> tuple[Any, ...]:
        index, term = indexed
        alone = () if term.kind == "pointwise" else (index,)
        return (term.kind, term.stride, term.shift, term.first_block, term.blocks, *alone)

    return [[term for _, term in group] for _, group in groupby(enumerate(shape.terms), product)]


class _Operation(nn.Module):
    """What one group of terms computes, as the eager network does it."""

    def __init__(self, terms: list[TermShape], states: tuple[StateShape, ...]) -> None:
        super().__init__()
        self.term = term = terms[0]
        read = [states[t.state] for t in terms]
        channels = sum(state.channels for state in read)
        self.state = torch.randn(1, channels, read[0].height, read[0].width)
        if term.kind in ("pointwise", "depthwise"):
            self.prelu = nn.PReLU(channels)
            self.pointwise = nn.Conv2d(
                channels, term.blocks * BLOCK, 1, term.stride if term.kind == "pointwise" else 1
            )
        if term.kind == "depthwise":
            pad = term.kernel // 2
            self.depthwise = nn.Conv2d(
                channels, channels, term.kernel, term.stride, pad, groups=channels, bias=False
            )

    def forward(self) -> Tensor:
        term, x = self.term, self.state
        if term.kind == "identity":
            return x
        if term.kind == "max_pool":
            return F.max_pool2d(x, 3, term.stride, 1)
        if term.kind == "avg_pool":
            return F.avg_pool2d(x, 3, term.stride, 1, count_include_pad=False)
        x = self.prelu(x)
        if term.kind == "depthwise":
            x = self.depthwise(x)
        elif term.shift:
            x = x[:, :, term.shift :, term.shift :]
        return self.pointwise(x)


class _Eager(nn.Module):
    def __init__(self, shape: StepShape) -> None:
        super().__init__()
        self.shape = shape
        first = shape.states[0]
        self.state = torch.randn(1, first.channels, first.height, first.width)
        outputs = shape.output.channels
        if shape.kind == "stem":
            self.body: nn.Module = nn.Conv2d(3, outputs, 3, 2, 1)
        elif shape.kind == "global_depthwise":
            size = (first.height, first.width)
            self.body = nn.Sequential(nn.PReLU(outputs), nn.Conv2d(outputs, outputs, size, groups=outputs))
        elif shape.kind == "linear":
            self.body = nn.Conv2d(first.channels, outputs, 1)
        else:
            groups = _as_eager_groups(shape)
            self.operations = nn.ModuleList(_Operation(terms, shape.states) for terms in groups)

    def lay_out(self, memory_format: torch.memory_format) -> None:
        self.to(memory_format=memory_format)
        for module in self.modules():
            if isinstance(module, (_Operation, _Eager)):
                module.state = module.state.contiguous(memory_format=memory_format)

    def forward(self) -> Tensor:
        if self.shape.kind != "node":
            return self.body(self.state)
        results = [operation() for operation in self.operations]
        if any(term.blocks * BLOCK < self.shape.output.channels for term in self.shape.terms):
            return torch.cat(results, 1)
        total = results[0]
        for result in results[1:]:
            total = total + result
        return total


class Eager:
    """The step in PyTorch's own operators."""

    def __init__(self, shape: StepShape, memory_format: torch.memory_format) -> None:
        self._module = _Eager(shape)
        self._module.lay_out(memory_format)
        with FlopCounterMode(display=False) as counter:
            out = self._module()
        if counter.get_total_flops() != 2 * shape.macs or out.shape[1:] != _size(shape.output):
            raise RuntimeError(f"eager computes something else, not timed: {shape}")

    def __call__(self) -> float:
        """Seconds of one run."""
        start = time.perf_counter()
        self._module()
        return time.perf_counter() - start


def _size(state: StateShape) -> tuple[int, int, int]:
    return state.channels, state.height, state.width


@dataclass(frozen=True)
class Result:
    """Medians over all rounds, in microseconds of one image.

    Attributes:
        gflops: Of ours, two operations per multiply-accumulate of a convolution; 0 for a step that has none.
        of_peak: ``gflops`` over the machine's measured peak.
        eager: By memory format.
    """

    step: str
    uses: dict[str, int]
    macs: int
    ours: float
    gflops: float
    of_peak: float
    eager: dict[str, float]


def measure(shape: StepShape, rounds: int, peak: float) -> Result:
    """Time one step, ours and eager in turns.

    Raises:
        RuntimeError: Either does not compute the step.
    """
    timers: dict[str, Timer] = {"ours": Ours(shape)}
    timers |= {name: Eager(shape, memory_format) for name, memory_format in FORMATS.items()}
    times: dict[str, list[float]] = {name: [] for name in timers}
    for index in range(rounds + 2):
        for name, timer in timers.items():
            timer()  # the caches hold another's data
            seconds = timer()
            if index >= 2:
                times[name].append(1e6 * seconds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    ours = medians.pop("ours")
    gflops = 2e-3 * shape.macs / ours
    return Result(str(shape), shape.uses, shape.macs, ours, gflops, gflops / peak, medians)


def table(results: list[Result]) -> Table:
    """The results as printed."""
    out = Table(box=None, pad_edge=False)
    out.add_column("step")
    for head in (
        "MACs",
        "ours, us",
        "GFLOP/s",
        "of peak",
        *(f"eager {name}, us" for name in FORMATS),
        "ratio",
    ):
        out.add_column(head, justify="right")
    for result in results:
        best = min(result.eager.values())
        out.add_row(
            result.step,
            f"{result.macs:,}",
            f"{result.ours:.1f}",
            f"{result.gflops:.1f}" if result.macs else "",
            f"{result.of_peak:.0%}" if result.macs else "",
            *(f"{result.eager[name]:.1f}" for name in FORMATS),
            f"{best / result.ours:.1f}",
        )
    return out


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=sorted(NETWORKS), help="only its steps; default all")
    parser.add_argument("--match", default="", help="only steps whose name contains this, e.g. 'dw5'")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    shapes = [
        shape
        for shape in read_shapes()
        if (arguments.network is None or arguments.network in shape.uses) and arguments.match in str(shape)
    ]
    if not shapes or arguments.rounds < 1:
        parser.error("no step matches" if not shapes else "--rounds must be at least 1")
    limit_threads(1)
    peak = peak_gflops()
    with torch.inference_mode():
        progress = track(shapes, "steps", console=Console(stderr=True))
        results = [measure(shape, arguments.rounds, peak) for shape in progress]
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(table(results))
    console.print(f"{compiled_isa()}, one thread, peak {peak:.0f} GFLOP/s; ratio: faster eager over ours")
    if arguments.json is not None:
        record = {
            "isa": compiled_isa(),
            "peak_gflops": peak,
            "torch": torch.__version__,
            "rounds": arguments.rounds,
            "steps": [vars(result) for result in results],
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
