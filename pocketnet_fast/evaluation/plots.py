"""Figures of a verification: the ROC, and how the scores are distributed. Needs matplotlib."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.evaluation.error_rates import Roc
from pocketnet_fast.evaluation.verification import Flags, Floats

_DPI = 120
_BIN = 0.02


def require_matplotlib() -> None:
    """Find out early that pictures cannot be drawn.

    Raises:
        PocketNetError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise PocketNetError(
            'matplotlib is not installed, which draws the curves: pip install "pocketnet_fast[eval]"'
        ) from None


def draw_roc(stream: BinaryIO, title: str, curves: dict[str, Roc], impostors: int) -> None:
    """Draw true against false accept rates, the latter on a logarithmic axis, as PNG.

    Args:
        stream: Where to write.
        title: Above the figure.
        curves: By their names in the legend.
        impostors: Number of pairs of two persons; one of them is the lowest rate shown.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.add_subplot()
    lowest = 1 / max(impostors, 1)
    for name, curve in curves.items():
        # What is accepted before the first false accept stands at the left edge.
        axes.step(np.maximum(curve.far, lowest / 2), curve.tar, where="post", label=name)
    # What good networks differ in lies close to 1.
    first = min(float(curve.tar[curve.far < lowest].max()) for curve in curves.values())
    bottom = min(max(0.0, first - 0.25 * (1 - first)), 0.9)
    axes.set(xscale="log", xlim=(lowest / 2, 1), ylim=(bottom, 1 + 0.01 * (1 - bottom)), title=title)
    axes.set(xlabel="false accept rate", ylabel="true accept rate")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(stream, format="png", dpi=_DPI)


def draw_scores(stream: BinaryIO, title: str, cosine: Floats, same: Flags, threshold: float) -> None:
    """Draw the distributions of the cosines of one person and of two, as PNG.

    Args:
        stream: Where to write.
        title: Above the figure.
        cosine: N.
        same: N: whether it is one person.
        threshold: A cosine to mark.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    bins = np.arange(-1, 1 + _BIN, _BIN).tolist()
    for name, chosen in (("two persons", ~same), ("one person", same)):
        axes.hist(cosine[chosen], bins=bins, alpha=0.6, label=f"{name}: {np.count_nonzero(chosen):,} pairs")
    axes.axvline(threshold, color="black", linestyle="--", label=f"threshold {threshold:.3f}")
    axes.set(title=title, xlabel="cosine similarity", ylabel="pairs")
    axes.set_xlim(min(-0.5, float(cosine.min())), 1)
    axes.legend(loc="upper left")
    figure.savefig(stream, format="png", dpi=_DPI)
