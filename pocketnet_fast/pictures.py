"""One look for all pictures. Needs matplotlib, which is imported where something is drawn."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.extras import package_of

DPI: Final = 120
COLORS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#7f7f7f")
"""Told apart by the colour-blind, too (Okabe and Ito)."""
FAINT: Final = "#9a9a9a"
_STYLE: Final[Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "figure.titlesize": 11,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#d9d9d9",
    "grid.linewidth": 0.6,
    # Text stays text, and neither date nor random names: the same content gives the same file.
    "svg.fonttype": "none",
    "svg.hashsalt": "pocketnet_fast",
}


def has_matplotlib() -> bool:
    """Whether pictures can be drawn."""
    try:
        require_matplotlib()
    except PocketNetError:
        return False
    return True


def require_matplotlib() -> None:
    """Find out early that pictures cannot be drawn.

    Raises:
        PocketNetError: matplotlib is not installed.
    """
    package_of("eval", "matplotlib", "draws pictures")


@contextlib.contextmanager
def picture(stream: BinaryIO, kind: str, size: tuple[float, float]) -> Iterator[Any]:
    """Yield a matplotlib figure in the common style, and write it when the block ends.

    Args:
        stream: Where to write.
        kind: "png", "svg" or "pdf".
        size: Width and height, inches.

    Raises:
        PocketNetError: Another kind, or matplotlib is not installed.
    """
    require_matplotlib()
    if kind not in ("png", "svg", "pdf"):
        raise PocketNetError(f"pictures of kind {kind!r}; expected png, svg or pdf")
    # Without pyplot, so that no display is asked for and no figure outlives its picture.
    from cycler import cycler
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style: Any = {**_STYLE, "axes.prop_cycle": cycler(color=COLORS)}
    with rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        yield figure
        undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
        figure.savefig(stream, format=kind, dpi=DPI, metadata=undated)
