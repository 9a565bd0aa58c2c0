"""What the verification protocol says of a data set's scores, as figures and as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from pocketnet_fast.evaluation.error_rates import roc
from pocketnet_fast.evaluation.pair_scores import PairScores
from pocketnet_fast.evaluation.paper_figures import paper_accuracy
from pocketnet_fast.evaluation.rates import operating_point
from pocketnet_fast.evaluation.verification import Flags, Floats, judge
from pocketnet_fast.files import atomic_write

_FARS: Final = (1e-1, 1e-2, 1e-3, 1e-4)


def verification_report(model: str, name: str, scores: PairScores, folds: int) -> dict[str, Any]:
    """Accuracy, rates and thresholds of a data set, with and without mirror images.

    Args:
        model: The network's name, by which the paper's accuracy is found.
        name: The data set's, likewise.
        scores: How alike the faces of its pairs are.
        folds: Contiguous parts; each is judged by the threshold of the others.

    Raises:
        PocketNetError: See ``judge``.

    Examples:
        >>> verification_report("pocketnet_s128", "lfw", scores, folds=10)["accuracy"]
    """
    same_pairs = int(scores.same.sum())
    paper = paper_accuracy(model, name)
    return {
        "pairs": len(scores.same),
        "same_pairs": same_pairs,
        **_measured(scores.distance, scores, scores.xnorm, folds),
        "without_flip": _measured(scores.straight_distance, scores, scores.straight_xnorm, folds),
        "paper_accuracy": None if paper is None else paper / 100,
    }


def _measured(distance: Floats, scores: PairScores, xnorm: float, folds: int) -> dict[str, Any]:
    result = judge(distance, scores.same, folds=folds, xnorm=xnorm)
    return {
        "accuracy": result.accuracy,
        "accuracy_std": result.accuracy_std,
        "threshold": result.threshold,
        "cosine_threshold": 1 - result.threshold / 2,
        "val": result.val,
        "val_std": result.val_std,
        "far": result.far,
        "xnorm": result.xnorm,
        "tar_at_far": _tar_at_far(1 - distance / 2, scores.same),
    }


def _tar_at_far(cosine: Floats, same: Flags) -> list[dict[str, Any]] | None:
    """By counting over all pairs; None without pairs of one person or without pairs of two."""
    if same.all() or not same.any():
        return None
    score = cosine.astype(np.float32)
    impostors = np.sort(score[~same])[::-1]
    points = (operating_point(score[same], impostors, len(impostors), far) for far in _FARS)
    return [point.as_dict() for point in points]


def draw_report(folder: Path, name: str, title: str, scores: PairScores, result: dict[str, Any]) -> None:
    """Draw the ROC and the distributions of the scores; needs matplotlib.

    Args:
        folder: Where the two pictures are written.
        name: How their names begin.
        title: Above each.
        scores: What they show.
        result: The report of these scores, with the threshold that is marked.

    Raises:
        PocketNetError: A picture cannot be written, or matplotlib is not installed.
    """
    from pocketnet_fast.evaluation.plots import draw_roc, draw_scores

    cosine = 1 - scores.distance / 2
    curves = {
        "with mirror images": roc(cosine, scores.same),
        "images alone": roc(1 - scores.straight_distance / 2, scores.same),
    }
    with atomic_write(folder / f"{name}_roc.png") as stream:
        draw_roc(stream, title, curves, int((~scores.same).sum()))
    with atomic_write(folder / f"{name}_scores.png") as stream:
        draw_scores(stream, title, cosine, scores.same, result["cosine_threshold"])
