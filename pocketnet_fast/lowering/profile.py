"""Where the time of a plan goes, step by step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pocketnet_fast.lowering.plan import Plan


@dataclass(frozen=True)
class StepTime:
    """One step of a plan, as measured.

    Attributes:
        name: Of the step.
        operations: What it computes.
        output: Shape of its result, channels x height x width.
        macs: Multiply-accumulates.
        microseconds: Median for one image.
        gflops: Two operations per multiply-accumulate, per second, in units of 1e9.
    """

    name: str
    operations: str
    output: str
    macs: int
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
                1e6 * float(spent),
                2e-9 * step.macs / max(float(spent), 1e-9),
            )
        )
    return times


def peak_gflops() -> float:
    """Measured fp32 multiply-add peak of the calling thread with the kernels' instruction set, in GFLOP/s."""
    from pocketnet_fast.ops.native import extension

    return float(extension().peak_gflops())
