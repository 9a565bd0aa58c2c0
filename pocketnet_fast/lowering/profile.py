"""Where the time of a plan goes, step by step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pocketnet_fast.lowering.plan import (
    BLOCK,
    GlobalDepthwiseStep,
    LinearStep,
    MapStep,
    Plan,
    StemStep,
    Step,
)


@dataclass(frozen=True)
class StepTime:
    """One step of a plan, as measured.

    Attributes:
        name: The name of the step.
        operations: What it computes.
        output: Shape of its result, channels x height x width.
        macs: Multiply-accumulates.
        bytes: The bytes of the states that it reads, each once, of its weights, and of its result.
        microseconds: Median for one image.
        gflops: Two operations per multiply-accumulate, per second, in units of 1e9.
    """

    name: str
    operations: str
    output: str
    macs: int
    bytes: int
    microseconds: float
    gflops: float


def profile(plan: Plan, repeats: int = 50) -> list[StepTime]:
    """Time each step of ``plan`` for one uint8 image on the calling thread.

    Args:
        plan: From ``lower``.
        repeats: Runs, of which the median per step is taken.
    """
    from pocketnet_fast.ops.native import extension

    program, weights = (tensor.numpy() for tensor in plan.encode())
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (1, plan.height, plan.width, 3), dtype=np.uint8)
    native = extension()
    runs = [native.profile(program, weights, pixels) for _ in range(repeats + 2)]
    seconds = np.median(np.array(runs[2:]), axis=0)
    times = []
    for row, step, spent in zip(plan.rows(), plan.steps(), seconds, strict=True):
        times.append(
            StepTime(
                step.name,
                str(row["operations"]),
                str(row["output"]),
                step.macs,
                _bytes(plan, step),
                1e6 * float(spent),
                2e-9 * step.macs / max(float(spent), 1e-9),
            )
        )
    return times


def _bytes(plan: Plan, step: Step) -> int:
    if isinstance(step, StemStep):
        weights = 28 * BLOCK * plan.buffers[step.output].blocks
        states = plan.state_bytes * _elements(plan, step.output) + 3 * plan.height * plan.width
        return 4 * weights + states
    if isinstance(step, GlobalDepthwiseStep):
        elements = _elements(plan, step.source)
        return (4 + plan.state_bytes) * elements
    if isinstance(step, LinearStep):
        return 4 * step.macs
    if isinstance(step, MapStep):
        state = plan.buffers[step.source]
        return (4 + plan.state_bytes) * step.channels * state.height * state.width
    read = {term.source for term in step.terms}
    elements = _elements(plan, step.output) + sum(_elements(plan, source) for source in read)
    weights = 0
    for term in step.terms:
        blocks = plan.buffers[term.source].blocks
        if term.pointwise >= 0:
            weights += blocks * term.out_blocks * BLOCK * BLOCK
        if term.depthwise >= 0:
            weights += blocks * BLOCK * term.kernel**2
    return plan.state_bytes * (elements + weights)


def _elements(plan: Plan, buffer: int) -> int:
    b = plan.buffers[buffer]
    return b.blocks * BLOCK * b.height * b.width


@dataclass(frozen=True)
class Roofline:
    """What one thread does at most with the kernels in use.

    Attributes:
        gflops: Multiply-adds from registers, in the precision asked for.
        gbs: Reading of what the second-level cache holds.
    """

    gflops: float
    gbs: float

    def microseconds(self, step: StepTime) -> float:
        """The least time a step can take: that of its multiply-adds or that of its bytes."""
        return max(2e-3 * step.macs / self.gflops, 1e-3 * step.bytes / self.gbs)


_CACHED = 256 * 1024


def measure_roofline(precision: str = "fp32") -> Roofline:
    """Measure the calling thread, ``"fp32"`` or ``"bf16"``; a fraction of a second."""
    from pocketnet_fast.ops.native import extension

    native = extension()
    return Roofline(native.peak_gflops(precision == "bf16"), native.read_gbs(_CACHED))


def peak_gflops() -> float:
    """Measured fp32 multiply-add peak of the calling thread with the kernels' instruction set, in GFLOP/s."""
    from pocketnet_fast.ops.native import extension

    return float(extension().peak_gflops())
