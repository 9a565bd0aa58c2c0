"""What exports of a ``FaceAnalyzer`` have in common: what a file says of itself, and the check on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pocketnet_fast.data.alignment import CROP_SIZE
from pocketnet_fast.data.images import ImageArray
from pocketnet_fast.data.synthetic import render_identity
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.export.source import checked_source, metadata_of
from pocketnet_fast.faces.analyzer import FaceAnalyzer

OUTPUTS = ("boxes", "landmarks", "scores", "embeddings")
"""What an exported analyzer returns, in order."""

Answer = tuple[Tensor, Tensor, Tensor, Tensor]


def check_options(analyzer: FaceAnalyzer, kernels: str, input: str, color: str, precision: str) -> None:
    """Refuse options that an analyzer's export does not have.

    Raises:
        PocketNetError: Saying which it has.
    """
    checked_source(analyzer.model, kernels, "uint8", color)
    if input not in ("float", "uint8"):
        raise PocketNetError(f"input is {input!r}; an analyzer's file takes photos, uint8 [H, W, 3]")
    own = analyzer.facts()["precision"]
    if precision not in ("fp32", own):
        raise PocketNetError(f"precision is {precision!r}; the analyzer's own is {own!r}, and is kept")
    if kernels == "aten" and own != "fp32":
        raise PocketNetError(
            f"the analyzer's precision {own!r} is of the fused kernels, not of ATen operators"
        )


def photo_metadata(
    analyzer: FaceAnalyzer, format: str, kernels: str, color: str, needs: str
) -> dict[str, Any]:
    """What a file says of itself: as a network's does, with ``"task": "faces"``."""
    facts = analyzer.facts()
    source = checked_source(analyzer.model, kernels, "uint8", color)
    metadata = metadata_of(source, format, kernels, "uint8", color, facts.pop("precision"), needs)
    metadata["task"] = "faces"
    metadata["input"] = {"dtype": "uint8", "shape": ["H", "W", 3], "color": color}
    metadata["outputs"] = list(OUTPUTS)
    return {**metadata, **facts}


def check_scene() -> ImageArray:
    """A picture of two rendered faces: uint8 H,W,3, RGB."""
    scene = np.full((300, 480, 3), 128, np.uint8)
    for place, identity in ((60, 0), (280, 3)):
        scene[90 : 90 + CROP_SIZE, place : place + CROP_SIZE] = render_identity(0, identity, 0)
    return scene


def photo_error(
    analyzer: FaceAnalyzer, exported: Callable[[Tensor], Answer], color: str, limit: float
) -> float:
    """How far an export is from its analyzer on a rendered scene and on a picture without a face.

    Args:
        analyzer: The source.
        exported: The reloaded file.
        color: Channel order of its photos.
        limit: The largest accepted error.

    Returns:
        Max abs difference over max abs value of the embeddings.

    Raises:
        PocketNetError: The faces are others, or the error is larger.
    """
    scene = check_scene()
    expected = [face for face in analyzer.analyze(scene) if face.doubt is None]
    pixels = torch.from_numpy(scene)
    boxes, landmarks, scores, embeddings = exported(pixels.flip(-1) if color == "bgr" else pixels)
    empty = exported(torch.zeros(40, 50, 3, dtype=torch.uint8))
    same = expected and len(boxes) == len(expected) == len(embeddings) and len(empty[0]) == len(empty[3]) == 0
    if same:
        found = np.concatenate([boxes.numpy(), landmarks.flatten(1).numpy(), scores[:, None].numpy()], 1)
        stated = np.stack([[*face.box, *face.landmarks.ravel(), face.score] for face in expected])
        same = np.abs(found - stated).max() < 1e-2
    if not same:
        raise PocketNetError(
            "the exported file finds other faces than the analyzer in a check; nothing was written"
        )
    truth = np.stack([face.embedding for face in expected if face.embedding is not None])
    error = float(np.abs(embeddings.numpy() - truth).max() / np.abs(truth).max())
    if not error <= limit:
        raise PocketNetError(
            f"the exported file's embeddings are {error:.1e} off the analyzer's; at most {limit:.0e} is "
            "accepted, and nothing was written"
        )
    return error
