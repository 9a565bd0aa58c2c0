"""The steps of a plan under the roofline, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.files import atomic_write
from pocketnet_fast.pictures import picture, require_matplotlib

if TYPE_CHECKING:
    from pocketnet_fast.lowering.profile import Roofline, StepTime

_KINDS = {"preproc": "pre-processing", "dag": "nodes", "stem": "stem", "tail": "tail"}


def draw_roofline(path: Path, steps: Sequence[StepTime], roofline: Roofline, title: str) -> None:
    """Draw multiply-adds a second over multiply-adds a byte, one mark a step, as large as its time.

    Raises:
        PocketNetError: matplotlib is missing, or the name is of no picture that it writes.
    """
    kind = path.suffix.removeprefix(".")
    if kind not in ("png", "svg", "pdf"):
        raise PocketNetError(f"{path}: expected a name in .png, .svg or .pdf")
    require_matplotlib()
    with atomic_write(path) as stream, picture(stream, kind, (8, 5)) as figure:
        _draw(figure.add_subplot(), steps, roofline)
        figure.suptitle(title)
        legend = figure.legend(loc="outside lower center", ncols=5)
        for handle in legend.legend_handles:
            if hasattr(handle, "set_sizes"):
                handle.set_sizes([40])


def _draw(axes: Any, steps: Sequence[StepTime], roofline: Roofline) -> None:
    counted = [step for step in steps if step.macs > 0]
    for name, label in _KINDS.items():
        own = [step for step in counted if name in step.name]
        intensity = [2 * step.macs / step.bytes for step in own]
        sizes = [4 + 2 * step.microseconds for step in own]
        axes.scatter(intensity, [step.gflops for step in own], s=sizes, alpha=0.5, label=label)
    ends = [min(2 * s.macs / s.bytes for s in counted) / 2, max(2 * s.macs / s.bytes for s in counted) * 2]
    knee = roofline.gflops / roofline.gbs
    corners = sorted({*ends, min(max(knee, ends[0]), ends[1])})
    axes.plot(
        corners, [min(roofline.gflops, roofline.gbs * x) for x in corners], color="black", label="roofline"
    )
    axes.set(xscale="log", yscale="log", xlabel="operations per byte", ylabel="GFLOP/s")
    axes.grid(visible=True)
