"""What tells in advance that a face will be decided wrongly: errors when the worst faces are rejected.

    python benchmarks/quality.py lfw_dev.bin cfp_fp_dev.bin --folds 7
    python benchmarks/quality.py lfw_dev.bin cfp_fp_dev.bin --folds 7 --photos photos/

For each measure that could be a quality, the pairs whose worse face is worst by it are rejected, 0 to 30 %,
and the errors of the rest counted at a fixed threshold: the weights' own for FAR 1e-3. Three kinds of pairs
of each data set are judged: as they are; mixed sizes, where half of the pairs are as they are, a quarter are
reduced to one size and a quarter to a size for each face; and one size, where all are reduced, both faces to
the same size. A face is found again in the reduced crop, in a grey border, as it would be in a photo; pairs
with a face that is not found are left out.

What is fitted, the weights in a sum of measures, is fitted on the mixed sizes of all data sets: on one half
of the folds for the pairs of the other half. Intervals hold 95 %, by a bootstrap over people.

The last tables are about sizes alone: all pairs of images of different folds, both faces reduced; and with
--photos, a folder of photos with pairs.csv (left, right, same), the photos reduced until their faces have the
widths of --width, from detection on.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.progress import track
from turned_photos import read_pairs

import pocketnet_fast
from pocketnet_fast.data.alignment import CROP_SIZE
from pocketnet_fast.data.augment import reduced
from pocketnet_fast.data.images import read_image
from pocketnet_fast.evaluation.bootstrap import person_weights
from pocketnet_fast.evaluation.pair_files import open_pairs
from pocketnet_fast.evaluation.people import folds_of, known_people
from pocketnet_fast.evaluation.verification import embed_straight_and_mirrored, unit_length
from pocketnet_fast.faces.analyzer import FaceAnalyzer
from pocketnet_fast.faces.detector import FaceDetector
from pocketnet_fast.faces.face import Face
from pocketnet_fast.faces.pipeline import Embedder
from pocketnet_fast.faces.quality import certainty, quality_of, smallness
from pocketnet_fast.models.calibration import far_text

REJECTED = (0.0, 0.05, 0.1, 0.2, 0.3)
# Around a crop of 112 pixels: YuNet sees more of a face that has something around it.
BORDER = 40
MOST_TURNED = 1.0
COMBINATIONS = {
    "score, size": ("score", "size"),
    "score, size, sharpness": ("score", "size", "sharpness"),
    "score, size, length": ("score", "size", "length"),
}
WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
# What it costs, where weights are fitted, to take two persons for one; one for two costs 1.
FALSE_ACCEPT = 5
KINDS = ("as they are", "mixed sizes", "one size")


@dataclass
class Data:
    """A data set: its pairs, and embeddings and measures of its distinct images by the side of the crop.

    Measures are larger where a face is better.
    """

    name: str
    pairs: np.ndarray
    same: np.ndarray
    fold: np.ndarray
    image_fold: np.ndarray
    person: np.ndarray
    embeddings: dict[int, np.ndarray]
    measures: dict[int, dict[str, np.ndarray]]


def seen(crop: np.ndarray, side: int, detector: FaceDetector) -> tuple[float, float, float, float]:
    """Score, pose, tilt and width of the face in a crop of so many pixels a side; NaN where none is found."""
    border = round(BORDER * side / CROP_SIZE)
    small = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
    around = cv2.copyMakeBorder(
        small, border, border, border, border, cv2.BORDER_CONSTANT, value=(127, 127, 127)
    )
    faces = detector.detect(around)
    if not faces:
        return (float("nan"),) * 4
    left, right, nose = faces[0].landmarks[:3]
    axis = right - left
    turned = abs(float((nose - (left + right) / 2) @ axis / max(axis @ axis, 1e-6)))
    return faces[0].score, min(turned, MOST_TURNED), abs(faces[0].tilt), faces[0].size


def looks(crop: np.ndarray) -> tuple[float, float, float]:
    """Sharpness, light and contrast of the inner part of a crop, which the face fills."""
    luma = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[28:104, 24:88].astype(np.float32)
    contrast = max(float(luma.std()), 1.0)
    laplacian = max(float(cv2.Laplacian(luma, cv2.CV_32F).std()), 1e-3)
    return float(np.log(laplacian / contrast)), -abs(float(luma.mean()) - 127.5), contrast


def measure(
    path: Path, folds: int, sides: list[int], embedder: Embedder, detector: FaceDetector, console: Console
) -> Data:
    """Embed and measure the images of a file at every size."""
    pairs = open_pairs(path)
    people = known_people(pairs)
    crops = list(pairs.crops(numbers=people.first.tolist()))
    data = Data(
        path.name,
        people.pairs,
        pairs.same,
        np.arange(len(pairs)) * folds // len(pairs),
        folds_of(pairs, people, folds),
        people.person,
        {},
        {},
    )
    for side in (CROP_SIZE, *sides):
        small = [reduced(crop, side, side) for crop in crops] if side < CROP_SIZE else crops
        turns = track(small, f"{path.name}, {side} pixels", console=console, transient=True)
        straight, mirrored = embed_straight_and_mirrored(embedder, turns)
        total = straight.astype(np.float64) + mirrored
        score, turned, tilt, width = np.array([seen(crop, side, detector) for crop in crops]).T
        sharpness, light, contrast = np.array([looks(crop) for crop in small]).T
        scale = np.full(len(crops), CROP_SIZE / side)
        data.embeddings[side] = unit_length(total).astype(np.float32)
        data.measures[side] = {
            "score": np.array([certainty(value) for value in score]),
            "size": np.array([-smallness(value) for value in scale]),
            "length": np.linalg.norm(total, axis=1) / 10,
            "mirror image": (unit_length(straight) * unit_length(mirrored)).sum(1),
            "sharpness": sharpness,
            "pose": -turned,
            "tilt": -tilt,
            "light": light,
            "contrast": contrast,
            "quality": np.array([quality_of(*values) for values in zip(score, scale, strict=True)]),
            "width": width,
        }
    return data


@dataclass
class Judged:
    """Pairs of one kind: the people, the fold, the cosine, and each measure of either face (2,N)."""

    people: np.ndarray
    same: np.ndarray
    fold: np.ndarray
    cosine: np.ndarray
    measures: dict[str, np.ndarray]


def drawn(data: Data, kind: str, sides: list[int], seed: int) -> Judged:
    """Choose a size for each face of each pair, the same in every run."""
    rng = np.random.default_rng(seed)
    count = len(data.pairs)
    side = rng.choice(sides, (2, count))
    together = rng.random(count)
    if kind == "one size":
        side[1] = side[0]
    elif kind == "mixed sizes":
        side[1] = np.where(together < 0.75, side[0], side[1])
        side[:, together < 0.5] = CROP_SIZE
    else:
        side[:] = CROP_SIZE
    rows = np.empty((2, count, data.embeddings[CROP_SIZE].shape[1]), np.float32)
    measures = {name: np.empty((2, count)) for name in data.measures[CROP_SIZE]}
    for size, (half, images) in itertools.product((CROP_SIZE, *sides), enumerate(data.pairs.T)):
        chosen = side[half] == size
        rows[half, chosen] = data.embeddings[size][images[chosen]]
        for name, values in data.measures[size].items():
            measures[name][half, chosen] = values[images[chosen]]
    found = np.isfinite(measures["width"]).all(0)
    return Judged(
        data.person[data.pairs[found]],
        data.same[found],
        data.fold[found],
        (rows[0] * rows[1]).sum(1)[found],
        {name: values[:, found] for name, values in measures.items()},
    )


def kept(worse: np.ndarray, rejected: float) -> np.ndarray:
    """Which pairs are left; which of equally bad ones is chance, the same in every run."""
    order = np.lexsort((np.random.default_rng(0).random(len(worse)), worse))
    left = np.ones(len(worse), bool)
    left[order[: round(rejected * len(worse))]] = False
    return left


def weighted(judged: Judged, names: tuple[str, ...], weights: tuple[float, ...]) -> np.ndarray:
    """A sum of measures of the worse face, the first measure weighing 1."""
    total = sum(w * judged.measures[name] for w, name in zip((1.0, *weights), names, strict=True))
    return np.asarray(total).min(0)


def fitted(
    mixes: list[Judged], folds: np.ndarray, names: tuple[str, ...], threshold: float
) -> tuple[float, ...]:
    """The weights that cost least in these folds, over all data sets and rejected parts alike."""

    def total(weights: tuple[float, ...]) -> float:
        costs = []
        for judged in mixes:
            part = np.isin(judged.fold, folds)
            accepted, same = judged.cosine >= threshold, judged.same
            cost = np.where(same, ~accepted, FALSE_ACCEPT * accepted)[part]
            worse = weighted(judged, names, weights)[part]
            costs += [cost[kept(worse, rejected)].mean() for rejected in REJECTED[1:]]
        return float(np.mean(costs))

    return min(itertools.product(WEIGHTS, repeat=len(names) - 1), key=total)


def rates(
    judged: Judged, worse: np.ndarray, halves: list[np.ndarray], threshold: float
) -> Iterator[dict[str, float]]:
    """Errors in percent for each rejected part, which is rejected of each half of the folds for itself."""
    accepted, same = judged.cosine >= threshold, judged.same
    for rejected in REJECTED:
        left = np.zeros(len(same), bool)
        for half in halves:
            part = np.isin(judged.fold, half)
            left[part] = kept(worse[part], rejected)
        yield {
            "errors": 100 * float((accepted != same)[left].mean()),
            "same_rejected": 100 * float((~accepted)[left & same].mean()) if (left & same).any() else 0.0,
            "different_accepted": 100 * float(accepted[left & ~same].mean()) if (left & ~same).any() else 0.0,
        }


def reduction(judged: Judged, worse: np.ndarray, threshold: float) -> tuple[float, float, float]:
    """By how much of a percent rejecting 5 % lowers the errors, and the interval of that."""
    wrong = (judged.cosine >= threshold) != judged.same
    left = kept(worse, REJECTED[1])
    one, other = judged.people.T
    found = []
    for block in person_weights(int(judged.people.max()) + 1):
        weight = np.where(one == other, block[:, one], block[:, one] * block[:, other])
        before = weight @ wrong / np.maximum(weight.sum(1), 1e-9)
        after = weight @ (wrong & left) / np.maximum(weight @ left, 1e-9)
        found.append(100 * (before - after))
    low, high = np.percentile(np.concatenate(found), (2.5, 97.5))
    return 100 * float(wrong.mean() - wrong[left].mean()), float(low), float(high)


def show_rejected(
    sets: list[Data], sides: list[int], halves: list[np.ndarray], threshold: float
) -> dict[str, Any]:
    """Fit the sums of measures, and print what rejecting by each measure leaves of the errors."""
    report: dict[str, Any] = {"fitted": {}, "kinds": {}}
    mixes = [drawn(data, "mixed sizes", sides, seed=1) for data in sets]
    weights = {
        name: [fitted(mixes, half, names, threshold) for half in halves[::-1]]
        for name, names in COMBINATIONS.items()
    }
    for name, (first, second) in weights.items():
        report["fitted"][name] = {
            "folds": [half.tolist() for half in halves[::-1]],
            "weights": [first, second],
        }
        print(f"{name}: weights beside the first, fitted on either half of the folds: {second}, {first}")

    for data, kind in itertools.product(sets, KINDS):
        judged = drawn(data, kind, sides, seed=0)
        worse = {name: values.min(0) for name, values in judged.measures.items() if name != "width"}
        for name, names in COMBINATIONS.items():
            total = np.empty(len(judged.same))
            for half, chosen in zip(halves, weights[name], strict=True):
                part = np.isin(judged.fold, half)
                total[part] = weighted(judged, names, chosen)[part]
            worse[name] = total
        print(f"\n{data.name}, {kind}, {len(judged.same):,} pairs")
        print("Errors (same rejected / different accepted), %\n")
        heads = [f"{100 * rejected:.0f} % rejected" for rejected in REJECTED]
        print(f"| | {' | '.join(heads)} | less by rejecting 5 % |")
        print("|---|" + "---:|" * (len(REJECTED) + 1))
        table = report["kinds"].setdefault(f"{data.name}, {kind}", {})
        for name, values in worse.items():
            curve = list(rates(judged, values, halves, threshold))
            less, low, high = reduction(judged, values, threshold)
            table[name] = {"curve": curve, "reduction": [less, low, high]}
            cells = [
                f"{row['errors']:.2f} ({row['same_rejected']:.2f} / {row['different_accepted']:.2f})"
                for row in curve
            ]
            print(f"| {name} | {' | '.join(cells)} | {less:.2f} ({low:.2f} to {high:.2f}) |")
    return report


def by_size(data: Data, sides: list[int], thresholds: dict[float, float]) -> list[dict[str, Any]]:
    """Errors of faces of one size: all pairs of images of different folds, the listed pairs of one person.

    With "large", the other face is as it is.
    """
    rows: list[dict[str, Any]] = []
    one, other = data.pairs[data.same].T
    whole = data.embeddings[CROP_SIZE]
    for side in (CROP_SIZE, *sides):
        small = data.embeddings[side]
        row: dict[str, Any] = {"side": side, "width": float(np.nanmedian(data.measures[side]["width"]))}
        for name, partner in (("both", small), ("large", whole)):
            counts, total = np.zeros(len(thresholds)), 0
            for fold in range(int(data.image_fold.max())):
                cosine = small[data.image_fold == fold] @ partner[data.image_fold > fold].T
                counts += [np.count_nonzero(cosine >= limit) for limit in thresholds.values()]
                total += cosine.size
            genuine = (small[one] * partner[other]).sum(1)
            row[name] = {
                far_text(far): {"accepted": count / total, "rejected": float((genuine < limit).mean())}
                for (far, limit), count in zip(thresholds.items(), counts, strict=True)
            }
        rows.append(row)
    return rows


def show_sizes(data: Data, rows: list[dict[str, Any]]) -> None:
    print(f"\n{data.name}: faces by size")
    fars = list(rows[0]["both"])
    heads = ["pixels a side", "width of the box", *(f"FAR {far}" for far in fars)]
    print("Different accepted / same rejected (same rejected where the other face is large), %\n")
    print(f"| {' | '.join(heads)} |")
    print("|" + "---:|" * len(heads))
    for row in rows:
        cells = [f"{row['side']}", f"{row['width']:.0f}"]
        for far in fars:
            both, large = row["both"][far], row["large"][far]
            accepted, rejected = 100 * both["accepted"], 100 * both["rejected"]
            cells.append(f"{accepted:.2g} / {rejected:.1f} ({100 * large['rejected']:.1f})")
        print(f"| {' | '.join(cells)} |")


def by_width(
    folder: Path, widths: list[float], analyzer: FaceAnalyzer, thresholds: dict[float, float]
) -> list[dict[str, Any]]:
    """Errors and quality of the most prominent faces of photos that are reduced until they are so wide."""
    pairs = read_pairs(folder)
    photos = {name: read_image(folder / name) for name in pairs.names}

    def face(photo: np.ndarray) -> Face | None:
        return next(iter(analyzer.analyze(photo, choose=lambda faces, _: faces[:1])), None)

    large = {name: face(photo) for name, photo in photos.items()}
    sizes = {name: found.size for name, found in large.items() if found is not None}
    rows: list[dict[str, Any]] = []
    for width in widths:
        found = {}
        for name, size in sizes.items():
            scale = min(1.0, width / size)
            small = cv2.resize(photos[name], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            seen = face(small)
            if seen is not None and seen.embedding is not None:
                found[name] = seen

        def cosines(chosen: list[tuple[str, str]], found: dict[str, Face] = found) -> np.ndarray:
            both = [(one, other) for one, other in chosen if one in found and other in found]
            return np.array([found[one].embedding @ found[other].embedding for one, other in both])

        genuine, impostor = cosines(pairs.genuine), cosines(pairs.impostor)
        quality = [face.quality for face in found.values()]
        row = {"width": width, "genuine": len(genuine), "impostors": len(impostor)}
        row["quality"] = np.quantile(quality, (0.05, 0.5)).tolist()
        row["rates"] = {
            far_text(far): {
                "accepted": float((impostor >= limit).mean()),
                "rejected": int((genuine < limit).sum()),
            }
            for far, limit in thresholds.items()
        }
        rows.append(row)
    return rows


def show_widths(rows: list[dict[str, Any]]) -> None:
    print("\nPhotos by the width of the box")
    print("Different accepted, % / same rejected\n")
    heads = ["width", "pairs, different / same", *(f"FAR {far}" for far in rows[0]["rates"])]
    heads += ["quality: 5 % below", "median"]
    print(f"| {' | '.join(heads)} |")
    print("|" + "---:|" * len(heads))
    for row in rows:
        cells = [f"{row['width']:.0f}", f"{row['impostors']:,} / {row['genuine']}"]
        cells += [f"{100 * rate['accepted']:.2f} / {rate['rejected']}" for rate in row["rates"].values()]
        cells += [f"{value:.3f}" for value in row["quality"]]
        print(f"| {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, nargs="+", help="verification pairs: .bin, .npz or a folder")
    parser.add_argument("--folds", type=int, default=10, help="of the pairs, whose people are apart")
    parser.add_argument("--model", default="pocketnet_s128")
    parser.add_argument("--weights", type=Path, help="default: those that ship")
    parser.add_argument("--far", type=float, default=1e-3, help="which of the weights' thresholds decides")
    parser.add_argument(
        "--side", type=int, action="append", help="a size to reduce crops to; default: 56, 40, 28, 20 and 14"
    )
    parser.add_argument("--photos", type=Path, help="a folder of photos with pairs.csv")
    parser.add_argument(
        "--width", type=float, action="append", help="of a box in --photos; default: 80 to 14"
    )
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    sides = arguments.side or [56, 40, 28, 20, 14]
    console = Console(stderr=True)

    model = pocketnet_fast.create_model(
        arguments.model, weights=arguments.weights, pretrained=arguments.weights is None
    )
    if model.calibration is None:
        parser.error("these weights are not calibrated")
    threshold = model.calibration.at(arguments.far).threshold
    embedder, detector = Embedder(model, batch_size=64), FaceDetector(upright=False)
    sets = [measure(path, arguments.folds, sides, embedder, detector, console) for path in arguments.data]
    folds = np.arange(arguments.folds)
    halves = [folds[: (len(folds) + 1) // 2], folds[(len(folds) + 1) // 2 :]]

    report = {"threshold": threshold} | show_rejected(sets, sides, halves, threshold)
    report["sizes"] = {}
    thresholds = {point.far: point.threshold for point in model.calibration.points}
    for data in sets:
        rows = report["sizes"][data.name] = by_size(data, sides, thresholds)
        show_sizes(data, rows)
    if arguments.photos is not None:
        analyzer = pocketnet_fast.FaceAnalyzer(model=model)
        widths = arguments.width or [80, 56, 40, 36, 32, 28, 24, 20, 17, 14]
        report["widths"] = by_width(arguments.photos, widths, analyzer, thresholds)
        show_widths(report["widths"])
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
