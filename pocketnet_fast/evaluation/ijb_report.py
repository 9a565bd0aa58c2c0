"""What an evaluation on IJB found, as fields of JSON and as pictures of its curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pocketnet_fast.evaluation.ijb import RANKS, GallerySearch, Verification
from pocketnet_fast.evaluation.ijb_files import IjbFiles


def verification_fields(result: Verification) -> dict[str, Any]:
    """The counts of pairs and the rates of a 1:1 evaluation."""
    return {
        "genuine": result.genuine,
        "impostors": result.impostors,
        "points": [point.as_dict() for point in result.points],
    }


def identification_fields(files: IjbFiles, results: list[GallerySearch]) -> dict[str, Any]:
    """The rates of a 1:N evaluation, for each gallery and their means."""
    galleries = [
        {
            "file": path.name,
            "templates": result.gallery,
            "mated": result.mated,
            "others": result.others,
            "top": {str(rank): result.top(rank) for rank in RANKS},
            "points": [
                {
                    "fpir": point.far,
                    "tpir": point.tar,
                    "threshold": point.threshold,
                    "accepted": point.accepted,
                }
                for point in result.points
            ],
        }
        for path, result in zip(files.galleries, results, strict=True)
    ]
    mean = {
        "top": {str(rank): float(np.mean([result.top(rank) for result in results])) for rank in RANKS},
        "tpir": {
            f"{points[0].far:g}": float(np.mean([point.tar for point in points]))
            for points in zip(*(result.points for result in results), strict=True)
        },
    }
    return {"galleries": galleries, "mean": mean}


def draw_curves(
    folder: Path,
    files: IjbFiles,
    title: str,
    verification: Verification | None,
    searched: list[GallerySearch] | None,
) -> None:
    """Draw the ROC and the CMC of what was evaluated; needs matplotlib.

    Raises:
        PocketNetError: A picture cannot be written, or matplotlib is not installed.
    """
    from pocketnet_fast.evaluation.ijb_plots import draw_cmc, draw_roc

    if verification is not None:
        draw_roc(folder / "roc.png", verification, title)
    if searched is not None:
        draw_cmc(folder / "cmc.png", searched, [path.stem for path in files.galleries], title)
