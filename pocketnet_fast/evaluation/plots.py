"""Figures of a verification: the ROC, and how the scores are distributed. Needs matplotlib."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np

from pocketnet_fast.evaluation.error_rates import Roc, area_under, equal_error_rate
from pocketnet_fast.evaluation.verification import Flags, Floats
from pocketnet_fast.pictures import picture

_BIN = 0.02


def draw_roc(stream: BinaryIO, title: str, curves: dict[str, Roc], impostors: int) -> None:
    """Draw true against false accept rates, the latter on a logarithmic axis, as PNG.

    Args:
        stream: Where to write.
        title: Above the figure.
        curves: By their names in the legend, which adds the area under each and its equal error rate.
        impostors: Number of pairs of two persons; one of them is the lowest rate shown.
    """
    with picture(stream, "png", (6, 5)) as figure:
        axes = figure.add_subplot()
        lowest = 1 / max(impostors, 1)
        for name, curve in curves.items():
            label = f"{name}: AUC {area_under(curve):.4f}, EER {100 * equal_error_rate(curve):.2f} %"
            # What is accepted before the first false accept stands at the left edge.
            axes.step(np.maximum(curve.far, lowest / 2), curve.tar, where="post", label=label)
        # What good networks differ in lies close to 1.
        first = min(float(curve.tar[curve.far < lowest].max()) for curve in curves.values())
        bottom = min(max(0.0, first - 0.25 * (1 - first)), 0.9)
        axes.set(xscale="log", xlim=(lowest / 2, 1), ylim=(bottom, 1 + 0.01 * (1 - bottom)), title=title)
        axes.set(xlabel="false accept rate", ylabel="true accept rate")
        axes.grid(visible=True)
        figure.legend(loc="outside lower center", ncols=1)


def draw_scores(stream: BinaryIO, title: str, cosine: Floats, same: Flags, threshold: float) -> None:
    """Draw the distributions of the cosines of one person and of two, as PNG.

    Args:
        stream: Where to write.
        title: Above the figure.
        cosine: N.
        same: N: whether it is one person.
        threshold: A cosine to mark.
    """
    with picture(stream, "png", (6, 4)) as figure:
        axes = figure.add_subplot()
        bins = np.arange(-1, 1 + _BIN, _BIN).tolist()
        for name, color, chosen in (("two persons", "C1", ~same), ("one person", "C0", same)):
            label = f"{name}: {np.count_nonzero(chosen):,} pairs"
            axes.hist(cosine[chosen], bins=bins, alpha=0.6, color=color, label=label)
        axes.axvline(threshold, color="black", linestyle="--", label=f"threshold {threshold:.3f}")
        axes.set(title=title, xlabel="cosine similarity", ylabel="pairs")
        axes.set_xlim(min(-0.5, float(cosine.min())), 1)
        axes.grid(visible=True, axis="y")
        # Below the axes, where no bar can be.
        figure.legend(loc="outside lower center", ncols=3)
