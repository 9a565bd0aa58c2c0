"""Decisions on photos that are turned, mirrored or tilted: genuine and impostor pairs that are accepted.

    python benchmarks/turned_photos.py photos/

The folder holds pairs.csv (left, right, same) and the photos that it names. *Apart* is how far the mean
cosines of genuine and impostor pairs lie from one another, in standard deviations (the root of the mean of
both variances).
"""

from __future__ import annotations

import argparse
import csv
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tests_path  # noqa: F401
from find_faces_reference import straightened

import pocketnet_fast
from pocketnet_fast.data.images import ImageArray, read_image
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.faces.sources import FaceSource

Change = Callable[[ImageArray], ImageArray]


def changes() -> dict[str, Change]:
    """What is done to a photo, by name."""

    def tilted(degrees: int) -> Change:
        return lambda photo: straightened(photo, -degrees % 360)[0]

    def mirrored(change: Change) -> Change:
        return lambda photo: np.ascontiguousarray(change(photo)[:, ::-1])

    found: dict[str, Change] = {"as given": lambda photo: photo}
    found |= {f"turned by {degrees}": tilted(degrees) for degrees in (90, 180, 270)}
    found |= {f"mirrored, turned by {degrees}": mirrored(tilted(degrees)) for degrees in (90, 180, 270)}
    return found | {
        f"tilted by {degrees}": tilted(degrees) for degrees in (-60, -45, -30, -15, 15, 30, 45, 60)
    }


class Pairs(NamedTuple):
    """Names of photos, and which pairs of them show one person and which two."""

    names: list[str]
    genuine: list[tuple[str, str]]
    impostor: list[tuple[str, str]]


def read_pairs(folder: Path) -> Pairs:
    """Genuine pairs from ``pairs.csv``; all other pairs of photos are impostors."""
    with (folder / "pairs.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    names = sorted({row[side] for row in rows for side in ("left", "right")})
    genuine = [(row["left"], row["right"]) for row in rows if row["same"] == "1"]
    same = {frozenset(pair) for pair in genuine}
    impostor = [pair for pair in itertools.combinations(names, 2) if frozenset(pair) not in same]
    return Pairs(names, genuine, impostor)


def embed(
    photos: dict[str, ImageArray], change: Change, source: FaceSource
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Unit-length embeddings by name, and why the others have none."""
    rows, refused = {}, {}
    for name, photo in photos.items():
        try:
            rows[name] = source.face(change(photo), name).embedding
        except PocketNetError as error:
            refused[name] = str(error)
    return rows, refused


def cosines(pairs: list[tuple[str, str]], rows: dict[str, np.ndarray]) -> dict[tuple[str, str], float]:
    """Of the pairs both of whose photos have an embedding."""
    return {(a, b): float(rows[a] @ rows[b]) for a, b in pairs if a in rows and b in rows}


def apart(genuine: list[float], impostor: list[float]) -> float:
    """The distance of the means in standard deviations."""
    return float((np.mean(genuine) - np.mean(impostor)) / np.sqrt((np.var(genuine) + np.var(impostor)) / 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--detector", type=Path, help="default: as the commands find it")
    parser.add_argument("--model", default="pocketnet_s128")
    parser.add_argument(
        "--far", type=float, help="which of the weights' thresholds decides; default: the weights' own"
    )
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--no-upright", action="store_true", help="take photos as they are given")
    arguments = parser.parse_args()

    pairs = read_pairs(arguments.photos)
    photos = {name: read_image(arguments.photos / name) for name in pairs.names}
    model = pocketnet_fast.create_model(arguments.model, pretrained=True)
    assert model.calibration is not None
    point = model.calibration.at(arguments.far)
    threshold = point.threshold
    analyzer = pocketnet_fast.FaceAnalyzer(
        model=model,
        detector=arguments.detector,
        precision=arguments.precision,
        flip=model.calibration.flip,
        upright=not arguments.no_upright,
    )
    source = FaceSource(analyzer)

    print(f"{len(photos)} photos, {point}\n")
    print("| | refused | genuine accepted, of those as given | impostors accepted | apart | CPU s |")
    print("|---|---:|---:|---:|---:|---:|")
    reference: set[tuple[str, str]] | None = None
    for name, change in changes().items():
        start = time.process_time()
        rows, refused = embed(photos, change, source)
        seconds = time.process_time() - start
        genuine, impostor = cosines(pairs.genuine, rows), cosines(pairs.impostor, rows)
        accepted = {pair for pair, cosine in genuine.items() if cosine >= threshold}
        reference = accepted if reference is None else reference
        kept = f"{len(accepted & reference)} of {len(reference)}"
        wrong = sum(cosine >= threshold for cosine in impostor.values())
        impostors = f"{wrong} of {len(pairs.impostor)} ({wrong / len(pairs.impostor):.2%})"
        distance = apart(list(genuine.values()), list(impostor.values()))
        print(
            f"| {name} | {len(refused)} | {kept} | {impostors} | {distance:.2f} | {seconds:.1f} |", flush=True
        )


if __name__ == "__main__":
    main()
