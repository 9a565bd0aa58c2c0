"""Where a model errs: error rates of verification pairs by pose, tilt, light, sharpness and size of faces.

    python benchmarks/error_groups.py lfw.bin --weights s128.safetensors
    python benchmarks/error_groups.py lfw.bin --side 56 --side 28 --side 20 --side 14
    python benchmarks/error_groups.py lfw.bin --model mobilefacenet --weights t.safetensors --threshold 0.3

Verification files carry no attributes, so they are measured on the crops: pose from YuNet's landmarks (how
far the nose lies from the middle between the eyes, in distances of the eyes: 0 is frontal, 0.5 about a half
profile), tilt from eyes to mouth, light as the mean luma, sharpness as the deviation of the Laplacian.
Of a pair, the more turned, the more tilted, the darker and the less sharp face counts, and the difference of
the lumas. Groups are quarters of the pairs. A pair with a crop in which the detector finds no face belongs to
a group of its own. With --side, all crops are reduced to that many pixels a side and enlarged again, too.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from pocketnet_fast.data.augment import reduced
from pocketnet_fast.evaluation.pair_files import open_pairs
from pocketnet_fast.evaluation.verification import consecutive_pairs, embed_both_ways, pair_distances
from pocketnet_fast.faces.detector import FaceDetector
from pocketnet_fast.faces.pipeline import Embedder
from pocketnet_fast.models.registry import create_model

GROUPS = 4
# YuNet sees more of a face that fills the crop when there is something around it.
BORDER = 28


def measure(crop: np.ndarray, detector: FaceDetector) -> tuple[float, float, float, float]:
    """Pose, tilt, luma and sharpness of a crop; pose and tilt are NaN where no face is found."""
    luma = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    sharpness = float(cv2.Laplacian(luma, cv2.CV_64F).std())
    around = cv2.copyMakeBorder(crop, BORDER, BORDER, BORDER, BORDER, cv2.BORDER_REPLICATE)
    faces = detector.detect(around)
    if not faces:
        return float("nan"), float("nan"), float(luma.mean()), sharpness
    left, right, nose = faces[0].landmarks[:3]
    axis = right - left
    turned = abs(float((nose - (left + right) / 2) @ axis / (axis @ axis)))
    return turned, abs(faces[0].tilt), float(luma.mean()), sharpness


def attributes(crops: list[np.ndarray], detector: FaceDetector, console: Console) -> dict[str, np.ndarray]:
    """An attribute of each pair."""
    rows = [measure(crop, detector) for crop in track(crops, "measuring", console=console, transient=True)]
    turned, tilt, luma, sharpness = np.array(rows).reshape(-1, 2, 4).transpose(2, 0, 1)
    return {
        "pose (nose from the middle, in eye distances)": turned.max(axis=1),
        "tilt (degrees)": tilt.max(axis=1),
        "light of the darker face (luma)": luma.min(axis=1),
        "difference of light (luma)": np.abs(luma[:, 0] - luma[:, 1]),
        "sharpness of the less sharp face": sharpness.min(axis=1),
    }


def quarters(values: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Name and members of each group."""
    known = np.isfinite(values)
    edges = np.quantile(values[known], np.linspace(0, 1, GROUPS + 1))
    place = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, GROUPS - 1)
    for group in range(GROUPS):
        yield f"{edges[group]:.3g} to {edges[group + 1]:.3g}", known & (place == group)
    if not known.all():
        yield "no face found", ~known


def rates(cosine: np.ndarray, same: np.ndarray, threshold: float) -> dict[str, Any]:
    """Errors of some pairs, in percent."""
    accepted = cosine >= threshold
    return {
        "pairs": len(same),
        "errors": 100 * float((accepted != same).mean()) if same.size else None,
        "rejected_same": 100 * float((~accepted[same]).mean()) if same.any() else None,
        "accepted_different": 100 * float(accepted[~same].mean()) if (~same).any() else None,
    }


def show(console: Console, threshold: float, report: dict[str, dict[str, dict[str, Any]]]) -> None:
    for attribute, groups in report.items():
        table = Table(
            attribute, "pairs", "errors, %", "same rejected, %", "different accepted, %", title_justify="left"
        )
        for name, row in groups.items():
            values = [row["errors"], row["rejected_same"], row["accepted_different"]]
            table.add_row(name, str(row["pairs"]), *("-" if v is None else f"{v:.2f}" for v in values))
        console.print(table)
    console.print(f"threshold: cosine {threshold:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, help="verification pairs: .bin, .npz or a folder")
    parser.add_argument("--model", default="pocketnet_s128")
    parser.add_argument("--weights", type=Path, help="default: those that ship")
    parser.add_argument(
        "--threshold", type=float, help="a cosine; default: the calibrated one of the weights"
    )
    parser.add_argument(
        "--detector", type=Path, help="YuNet's model file; default: as the command line finds it"
    )
    parser.add_argument(
        "--side", type=int, action="append", default=[], help="reduce all crops to it and back; repeatable"
    )
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    console = Console()

    model = create_model(arguments.model, weights=arguments.weights, pretrained=arguments.weights is None)
    threshold = arguments.threshold
    if threshold is None:
        if model.calibration is None:
            parser.error("these weights are not calibrated; pass --threshold")
        threshold = model.calibration.threshold
    pairs = open_pairs(arguments.data)
    detector = FaceDetector(arguments.detector, upright=False)
    crops = list(pairs.crops())
    embedder = Embedder(model, batch_size=64)

    def cosines(images: list[np.ndarray], what: str) -> np.ndarray:
        turns = track(images, what, console=console, transient=True)
        embeddings, _ = embed_both_ways(embedder, turns, batch_size=64)
        return 1 - pair_distances(embeddings, consecutive_pairs(len(pairs))) / 2

    cosine = cosines(crops, "embedding")
    report = {"all": {"all": rates(cosine, pairs.same, threshold)}}
    for name, values in attributes(crops, detector, console).items():
        report[name] = {
            group: rates(cosine[member], pairs.same[member], threshold) for group, member in quarters(values)
        }
    for side in arguments.side:
        small = cosines([reduced(crop, side, side) for crop in crops], f"{side} pixels")
        sizes = report.setdefault("size of the face (pixels a side)", {})
        sizes[str(side)] = rates(small, pairs.same, threshold)
    show(console, threshold, report)
    if arguments.json is not None:
        content = {"data": arguments.data.name, "model": arguments.model, "threshold": threshold}
        arguments.json.write_text(json.dumps(content | {"groups": report}, indent=1) + "\n")


if __name__ == "__main__":
    main()
