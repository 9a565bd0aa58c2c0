"""Pictures of IJB's results: the ROC of verification and the CMC of identification."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pocketnet_fast.evaluation.ijb import GallerySearch, Verification
from pocketnet_fast.files import atomic_write
from pocketnet_fast.pictures import picture


def draw_roc(path: Path, result: Verification, title: str) -> None:
    """Draw true against false accept rates, the latter on a logarithmic scale, to a .png file.

    Raises:
        PocketNetError: matplotlib is not installed, or the file cannot be written.
    """
    with _axes(path, title) as axes:
        far, tar = result.roc
        axes.step(
            far, tar, where="post", label=f"{result.genuine:,} genuine, {result.impostors:,} impostor pairs"
        )
        for kind, fill, label in (
            (True, "full", "rates of the table"),
            (False, "none", "too few pairs to measure"),
        ):
            points = [point for point in result.points if bool(point.accepted) is kind]
            if points:
                x, y = [point.far for point in points], [point.tar for point in points]
                axes.plot(x, y, "o", color="C1", fillstyle=fill, label=label)
        axes.set_xscale("log")
        axes.set_xlabel("false accept rate")
        axes.set_ylabel("true accept rate")
        axes.figure.legend(loc="outside lower center", ncols=3)


def draw_cmc(path: Path, results: list[GallerySearch], names: list[str], title: str) -> None:
    """Draw the part of mated probes found by rank, for each gallery and on average, to a .png file.

    Raises:
        PocketNetError: matplotlib is not installed, or the file cannot be written.
    """
    with _axes(path, title) as axes:
        curves = {name: result.cmc for name, result in zip(names, results, strict=True)}
        curves["mean"] = np.mean([result.cmc for result in results], axis=0)
        for name, cmc in curves.items():
            axes.plot(np.arange(1, len(cmc) + 1), cmc, label=name, linestyle="-" if name == "mean" else ":")
        axes.set_xscale("log")
        axes.set_xlabel("rank")
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.set_ylabel("mated probes found")
        axes.figure.legend(loc="outside lower center", ncols=3)


@contextmanager
def _axes(path: Path, title: str) -> Iterator[Any]:
    with atomic_write(path) as file, picture(file, "png", (6, 4.5)) as figure:
        axes = figure.add_subplot()
        axes.set_title(title)
        axes.grid(visible=True)
        yield axes
