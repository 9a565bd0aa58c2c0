"""Augmentation: what each change does, how often, and that it depends on its generator alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import numpy as np
import pytest
import torch
from faces import crop

from pocketnet_fast.data.augment import Augmentation, mix_batch
from pocketnet_fast.data.images import ImageArray
from pocketnet_fast.errors import PocketNetError

NAMES = [field.name for field in fields(Augmentation)]
EVERY = Augmentation(flip=0.5, crop=0.5, color=0.5, blur=0.5, cutout=0.5)


def only(name: str, probability: float = 1.0) -> Augmentation:
    return Augmentation(**{"flip": 0.0, name: probability})


def apply(augmentation: Augmentation, seed: int, image: ImageArray | None = None) -> ImageArray:
    return augmentation((crop(3) if image is None else image).copy(), np.random.default_rng(seed))


def test_flip_by_default() -> None:
    kinds = []
    for seed in range(200):
        result = apply(Augmentation(), seed)
        mirrored = np.array_equal(result, crop(3)[:, ::-1])
        assert mirrored or np.array_equal(result, crop(3))
        kinds.append(mirrored)
    assert 70 < sum(kinds) < 130


@pytest.mark.parametrize("name", NAMES)
def test_each_change(name: str) -> None:
    results = [apply(only(name), seed) for seed in range(30)]
    for result in results:
        assert (result.shape, result.dtype) == ((112, 112, 3), np.uint8)
        assert not np.array_equal(result, crop(3))
        assert result.flags.c_contiguous
    # Whole numbers, such as the quality of JPEG, come twice.
    assert len({result.tobytes() for result in results}) >= (1 if name == "flip" else 20)
    changed = [not np.array_equal(apply(only(name, 0.25), seed), crop(3)) for seed in range(400)]
    assert 60 < sum(changed) < 140
    np.testing.assert_array_equal(apply(only(name, 0.0), 0), crop(3))


def test_the_generator_decides_alone() -> None:
    for seed in range(20):
        np.testing.assert_array_equal(apply(EVERY, seed), apply(EVERY, seed))
    assert len({apply(EVERY, seed).tobytes() for seed in range(50)}) > 40


def measured(change: Callable[[ImageArray], float], name: str, image: ImageArray) -> list[float]:
    return [change(apply(only(name), seed, image)) for seed in range(60)]


def test_crop_shows_a_part_of_the_image() -> None:
    y, x = np.mgrid[:112, :112].astype(np.uint8)
    ramp = np.dstack([x, y, x])
    for seed in range(30):
        result = apply(only("crop"), seed, ramp).astype(float)
        # Linear in x and y: positions of the source, 80 to 100 % of the sides, inside the image.
        slope = (result[56, 100, 0] - result[56, 10, 0]) / 90
        assert 0.78 < slope < 1.02
        assert slope == pytest.approx((result[100, 56, 1] - result[10, 56, 1]) / 90, abs=0.03)
        assert result[..., 0].min() >= 0
        assert result[..., 0].max() <= 111
        np.testing.assert_array_equal(result[..., 0], result[..., 2])


def test_colours() -> None:
    grey = np.full((112, 112, 3), 120, np.uint8)
    # No change but brightness shows on a plain grey: contrast is about its mean, and it has no colour.
    levels = measured(lambda image: float(image.mean()), "color", grey)
    assert 0.69 * 120 < min(levels) < 0.8 * 120
    assert 1.2 * 120 < max(levels) < 1.31 * 120
    spreads = measured(lambda image: float(np.ptp(image.astype(int), axis=2).max()), "color", grey)
    assert max(spreads) <= 1
    colourful = crop(3) // 2 + 64
    results = [apply(only("color"), seed, colourful) for seed in range(100)]
    without = sum(np.ptp(result.astype(int), axis=2).max() <= 1 for result in results)
    assert 2 <= without <= 25  # one in ten becomes grey


def test_blur_removes_detail_and_keeps_the_rest() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    detail = measured(lambda image: float(np.abs(np.diff(image.astype(int), axis=0)).mean()), "blur", noise)
    before = np.abs(np.diff(noise.astype(int), axis=0)).mean()
    assert max(detail) < before
    assert min(detail) < before / 4
    for seed in range(20):
        assert np.abs(apply(only("blur"), seed).mean((0, 1)) - crop(3).mean((0, 1))).max() < 2


def test_cutout_is_a_rectangle_of_one_colour() -> None:
    for seed in range(40):
        result = apply(only("cutout"), seed)
        rows, columns = np.nonzero((result != crop(3)).any(2))
        top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
        inside = result[top:bottom, left:right].reshape(-1, 3)
        assert len(np.unique(inside, axis=0)) == 1
        assert 0.02 < len(inside) / 112**2 < 0.16
        assert 0.45 < (bottom - top) / (right - left) < 2.2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_probabilities_only(name: str, value: float) -> None:
    with pytest.raises(PocketNetError, match=f"augmentation {name}={value}: expected a probability, 0 to 1"):
        only(name, value)


def batch(count: int = 16) -> torch.Tensor:
    """Images that are constant, each with its number."""
    return torch.arange(float(count)).view(-1, 1, 1, 1).expand(-1, 3, 8, 8).clone()


def mixed(images: torch.Tensor, seed: int = 0, mixup: float = 0.0, cutmix: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return mix_batch(images, mixup=mixup, cutmix=cutmix, generator=generator)


def test_mixup_blends_whole_images() -> None:
    shares = []
    for seed in range(50):
        images = batch()
        result = mixed(images, seed, mixup=1.0)
        assert torch.equal(images, batch())
        assert bool((result == result[:, :1, :1, :1]).all())
        # The mean over the batch of convex combinations lies among the images.
        assert 0 <= float(result.min()) <= float(result.max()) <= 15
        # The pair is known from the permutation that the generator draws first.
        other = torch.randperm(16, generator=torch.Generator().manual_seed(seed))
        distance = (other - torch.arange(16)).float()
        share = (result[:, 0, 0, 0] - torch.arange(16.0)) / distance
        shares += share[distance != 0].tolist()
    assert 0 <= min(shares) < 0.02
    assert 0.98 < max(shares) <= 1
    assert 0.45 < float(np.mean(shares)) < 0.55


def test_cutmix_pastes_a_rectangle_of_one_other() -> None:
    areas = []
    for seed in range(50):
        result = mixed(batch(), seed, cutmix=1.0)
        other = torch.randperm(16, generator=torch.Generator().manual_seed(seed))
        for number in range(16):
            image = result[number, 0]
            assert torch.equal(result[number, 1], image)
            pasted = image != number
            if not bool(pasted.any()):
                continue
            assert bool((image[pasted] == other[number]).all())
            rows, columns = torch.nonzero(pasted, as_tuple=True)
            box = image[int(rows.min()) : int(rows.max()) + 1, int(columns.min()) : int(columns.max()) + 1]
            assert box.unique().numel() == 1
            areas.append(box.numel() / 64)
    assert max(areas) > 0.8
    assert 0.2 < float(np.mean(areas)) < 0.6


def test_mixing_as_often_as_asked() -> None:
    changed, whole = 0, 0
    for seed in range(60):
        result = mixed(batch(), seed, mixup=0.25, cutmix=0.25)
        touched = (result != batch()).flatten(1).any(1)
        uniform = (result == result[:, :1, :1, :1]).flatten(1).all(1)
        changed += int(touched.sum())
        whole += int((touched & uniform).sum())
    assert 0.35 < changed / 960 < 0.55
    assert 0.18 < whole / 960 < 0.32
    images = batch()
    assert mixed(images) is images


def test_mixing_refuses() -> None:
    for mixup, cutmix in ((-0.1, 0.0), (0.0, -0.1), (0.6, 0.5)):
        with pytest.raises(PocketNetError, match="expected probabilities with a sum of at most 1"):
            mixed(batch(), mixup=mixup, cutmix=cutmix)
    with pytest.raises(PocketNetError, match="expected float N x 3 x H x W images"):
        mixed(torch.zeros(2, 8, 8, 3, dtype=torch.uint8), mixup=1.0)
    assert mixed(torch.randn(3, 3, 8, 8).double(), mixup=1.0).dtype == torch.float64
