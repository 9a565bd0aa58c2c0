"""Verification during training: what is read, what comes out, and that the model stays as it was."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import randomize_

import pocketnet_fast
from pocketnet_fast.data.images import encode_image
from pocketnet_fast.data.synthetic import SyntheticDataset
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.evaluation.verification import judge
from pocketnet_fast.models.base import EmbeddingModel
from pocketnet_fast.resumable.interruption import StoppedError
from pocketnet_fast.training.recipe import VerificationRecipe
from pocketnet_fast.training.validation import UNSEEN_IDENTITY, Validator

CPU = torch.device("cpu")
TRAINED_ON = SyntheticDataset(3, 2)


@pytest.fixture(scope="module")
def bin_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    people = SyntheticDataset(4, 4)
    same = [True, False] * 4
    images = []
    for index, flag in enumerate(same):
        first = 4 * (index % 4)
        images += [people.image(first), people.image(first + 1 if flag else (first + 4) % 16)]
    path = tmp_path_factory.mktemp("bin") / "tiny.bin"
    path.write_bytes(pickle.dumps(([encode_image(image, ".png") for image in images], same), protocol=2))
    return path


def model() -> EmbeddingModel:
    network = pocketnet_fast.create_model("pocketnet", channels=2, layers=4, embedding_dim=8)
    return randomize_(network, 0)


def by_hand(network: EmbeddingModel, images: list[np.ndarray], same: np.ndarray, folds: int) -> float:
    rows = []
    for image in images:
        views = torch.from_numpy(np.stack([image, image[:, ::-1]]))
        with torch.no_grad():
            total = network(network.input_spec.normalize(views)).sum(0).double()
        rows.append((total / total.norm()).numpy())
    distance = np.array([((a - b) ** 2).sum() for a, b in zip(rows[::2], rows[1::2], strict=True)])
    return judge(distance, same, folds=folds).accuracy


def test_bin_and_synthetic(bin_file: Path) -> None:
    recipe = VerificationRecipe(
        bins=(str(bin_file),), synthetic_identities=3, synthetic_images=2, pairs=12, folds=4
    )
    validator = Validator(recipe, TRAINED_ON, CPU)
    assert validator.images == 16 + 6
    network = model().train()
    network.stem[1].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    seen: list[int] = []
    results = validator(network, seen.append)
    assert sum(seen) == validator.images
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())

    network.eval()
    from pocketnet_fast.data.images import decode_image
    from pocketnet_fast.evaluation.bin_file import read_bin

    pairs = read_bin(bin_file)
    images = [decode_image(data) for data in pairs.images]
    assert list(results) == ["tiny", "synthetic"]
    assert results["tiny"].accuracy == pytest.approx(by_hand(network, images, pairs.same, 4))
    assert results["tiny"].pairs == 8
    assert results["synthetic"].pairs == 12


def test_unseen_people_are_not_the_first_ones() -> None:
    first, unseen = SyntheticDataset(1, 1), SyntheticDataset(1, 1, first_identity=UNSEEN_IDENTITY)
    assert not np.array_equal(first.image(0), unseen.image(0))


def test_nothing_to_verify() -> None:
    assert not Validator(VerificationRecipe(), TRAINED_ON, CPU)
    assert Validator(VerificationRecipe(), TRAINED_ON, CPU)(model()) == {}


def test_giving_up(bin_file: Path) -> None:
    network = model().train()
    validator = Validator(VerificationRecipe(bins=(str(bin_file),), folds=4), TRAINED_ON, CPU)

    def stop(images: int) -> None:
        raise StoppedError

    with pytest.raises(StoppedError):
        validator(network, stop)
    assert network.training


def test_errors(bin_file: Path, tmp_path: Path) -> None:
    def opened(**values: object) -> Validator:
        return Validator(VerificationRecipe(**values), TRAINED_ON, CPU)  # type: ignore[arg-type]

    with pytest.raises(PocketNetError, match=r"8 pairs cannot .* 10 folds.*; set verification.folds"):
        opened(bins=(str(bin_file),))
    with pytest.raises(PocketNetError, match="another verification file is called tiny too"):
        opened(bins=(str(bin_file), str(bin_file)), folds=2)
    with pytest.raises(PocketNetError, match="no such verification file"):
        opened(bins=(str(tmp_path / "absent.bin"),))
    broken = tmp_path / "broken.bin"
    broken.write_bytes(pickle.dumps(([b"none", b"none"] * 2, [True, False])))
    with pytest.raises(PocketNetError, match=r"broken\.bin: image 0 is a text, not an image"):
        opened(bins=(str(broken),), folds=2)(model())
