"""The weights that ship: whole, small, and as good as the model card says."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from faces import photo_cosines
from pair_files import every_nth
from safetensors import safe_open

import pocketnet_fast
from pocketnet_fast.data.images import ImageArray, read_image
from pocketnet_fast.evaluation.pair_files import open_pairs
from pocketnet_fast.evaluation.verification import (
    consecutive_pairs,
    embed_both_ways,
    judge,
    pair_distances,
)
from pocketnet_fast.faces.pipeline import Embedder
from pocketnet_fast.faces.sources import FaceSource
from pocketnet_fast.models import registry
from pocketnet_fast.models.shipped import verified

NAMES = sorted(registry.PRETRAINED)


def path_of(name: str) -> Path:
    return verified(registry.PRETRAINED[name])


def test_the_default_model_has_weights() -> None:
    assert "pocketnet_s128" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_file(name: str) -> None:
    path = path_of(name)
    model = pocketnet_fast.create_model(name, pretrained=True)
    # Two bytes a weight, and vectors in full.
    assert path.stat().st_size < 2.3 * sum(parameter.numel() for parameter in model.parameters())
    with safe_open(path, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 - not a dict
            tensor = file.get_tensor(key)
            if tensor.is_floating_point():
                assert tensor.dtype == (torch.float16 if tensor.dim() > 1 else torch.float32), key
                assert tensor.isfinite().all(), key
    assert model.weights_source == f"pretrained {name}"
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_calibration(name: str) -> None:
    model = pocketnet_fast.create_model(name, pretrained=True)
    calibration = model.calibration
    assert calibration is not None
    assert [point.far for point in calibration.points] == [1e-3, 1e-4, 1e-5]
    assert (calibration.default_far, calibration.all_pairs) == (1e-4, True)
    for point in calibration.points:
        assert 0 < point.threshold < 1
        assert len(point.measured) >= 2
        for rates in point.measured:
            assert rates.impostor_pairs > 1e6
            assert rates.far <= point.far
            assert rates.far_low is not None
            assert rates.far_high is not None
            assert rates.far_low <= rates.far <= rates.far_high
    assert Embedder(model).calibration == calibration


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_verification_accuracy(name: str, shared_dir: Path) -> None:
    """On every fifth pair of seven folds: a tenth of a percent is one of them."""
    pairs = every_nth(open_pairs(shared_dir / "data" / "lfw_dev.bin"), 5)
    embedder = Embedder(pocketnet_fast.create_model(name, pretrained=True), batch_size=64)
    embeddings, xnorm = embed_both_ways(embedder, pairs.crops())
    distance = pair_distances(embeddings, consecutive_pairs(len(pairs)))
    result = judge(distance, pairs.same, folds=7, xnorm=xnorm)
    print(f"{name}: {result}")
    assert result.accuracy >= 0.965


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_turned_and_tilted_photos_are_decided_as_upright_ones(name: str, shared_dir: Path) -> None:
    """Each photo turned, mirrored or tilted in a way of its own; all pairs of people."""
    from find_faces_reference import straightened

    def changed(photo: ImageArray, number: int) -> ImageArray:
        tilts = (90, 180, 270, 30, 315, 60, 345, 45, 300)
        photo = photo if number % 2 else np.ascontiguousarray(photo[:, ::-1])
        return straightened(photo, tilts[number % len(tilts)])[0]

    folder = shared_dir / "data" / "photos"
    model = pocketnet_fast.create_model(name, pretrained=True)
    assert model.calibration is not None
    threshold = model.calibration.threshold
    source = FaceSource(pocketnet_fast.FaceAnalyzer(model=model, flip=model.calibration.flip))
    paths = sorted(folder.glob("*.jpg"))
    photos = [read_image(path) for path in paths]
    accepted = []
    for images in (photos, [changed(photo, number) for number, photo in enumerate(photos)]):
        faces = [source.face(image, path) for image, path in zip(images, paths, strict=True)]
        rows = np.stack([face.embedding for face in faces])
        accepted.append(rows @ rows.T >= threshold)
    place = {path.name: number for number, path in enumerate(paths)}
    with (folder / "pairs.csv").open(newline="") as stream:
        same = {
            (place[row["left"]], place[row["right"]]) for row in csv.DictReader(stream) if row["same"] == "1"
        }
    upright = {pair for pair in same if accepted[0][pair]}
    kept = {pair for pair in upright if accepted[1][pair]}
    pairs = [pair for pair in itertools.combinations(range(len(paths)), 2) if pair not in same]
    impostors = sum(bool(accepted[1][pair]) for pair in pairs)
    print(f"{name}: {len(kept)} of {len(upright)} genuine, {impostors} of {len(pairs)} impostors accepted")
    assert len(kept) >= 0.97 * len(upright)
    assert impostors <= 0.005 * len(pairs)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_photos_are_decided_right(name: str, shared_dir: Path) -> None:
    """The whole path from 48 pairs of unaligned photos to decisions."""
    photos = shared_dir / "data" / "photos"
    model = pocketnet_fast.create_model(name, pretrained=True)
    assert model.calibration is not None
    analyzer = pocketnet_fast.FaceAnalyzer(model=model, flip=model.calibration.flip)
    cosine, same = photo_cosines(photos, analyzer)
    right = (cosine >= model.calibration.threshold) == same
    print(f"{name}: {right.sum()} of {len(right)}")
    assert len(right) == 48
    assert right.sum() >= 45
