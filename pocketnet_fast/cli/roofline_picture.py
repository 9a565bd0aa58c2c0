"""The steps of a plan under the roofline, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.files import atomic_write

if TYPE_CHECKING:
    from pocketnet_fast.lowering.profile import Roofline, StepTime

_KINDS = {"preproc": "pre-processing", "dag": "nodes", "stem": "stem", "tail": "tail"}


def draw_roofline(path: Path, steps: Sequence[StepTime], roofline: Roofline, title: str) -> None:
    """Draw multiply-adds a second over multiply-adds a byte, one mark a step, as large as its time.

    Raises:
        PocketNetError: If matplotlib is missing, or the name is of no picture that it writes.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise PocketNetError("a picture needs matplotlib: pip install matplotlib") from None
    kind = path.suffix.removeprefix(".")
    if kind not in ("png", "svg", "pdf"):
        raise PocketNetError(f"{path}: expected a name in .png, .svg or .pdf")
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    counted = [step for step in steps if step.macs > 0]
    for name, label in _KINDS.items():
        own = [step for step in counted if name in step.name]
        intensity = [2 * step.macs / step.bytes for step in own]
        sizes = [4 + 2 * step.microseconds for step in own]
        axes.scatter(intensity, [step.gflops for step in own], s=sizes, alpha=0.5, label=label)
    ends = [min(2 * s.macs / s.bytes for s in counted) / 2, max(2 * s.macs / s.bytes for s in counted) * 2]
    knee = roofline.gflops / roofline.gbs
    corners = sorted({*ends, min(max(knee, ends[0]), ends[1])})
    axes.plot(corners, [min(roofline.gflops, roofline.gbs * x) for x in corners], color="black")
    axes.set(xscale="log", yscale="log", xlabel="operations per byte", ylabel="GFLOP/s", title=title)
    axes.legend()
    axes.grid(alpha=0.3, which="both")
    with atomic_write(path) as stream:
        figure.savefig(stream, format=kind, dpi=150)
