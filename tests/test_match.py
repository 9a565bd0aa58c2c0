"""Teachers of longer embeddings: matched by a learned matrix, or by the cosines between images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import randomize_
from torch import Tensor
from torch.nn import functional
from training_runs import (
    assert_resumes_bit_for_bit,
    learning_from,
    lines,
    tiny_recipe,
    weights,
    write_faces,
)

import pocketnet_fast
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.models.weights import save_weights
from pocketnet_fast.resumable.distributed import Processes
from pocketnet_fast.training.assembly import assemble
from pocketnet_fast.training.objective import RelationalObjective
from pocketnet_fast.training.recipe import Recipe
from pocketnet_fast.training.trainer import train

LONGER = 24
ALONE = Processes(0, 1, torch.device("cpu"))
MATCHES = pytest.mark.parametrize("match", ["linear", "relational"])


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("faces") / "one.rec", 24, 2)


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return learning_from(
        pocketnet_fast.create_model("pocketnet", channels=3, layers=4, embedding_dim=LONGER),
        tmp_path_factory.mktemp("teacher"),
        distillation__fit_tail=True,
        optimizer__lr=0.002,
        data__batch_size=8,
        schedule__epochs=2,
    )


def rows(count: int, width: int, seed: int) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_relations_by_hand() -> None:
    embedding, teacher = rows(5, 4, 0).requires_grad_(), rows(5, 9, 1)
    loss, parts = RelationalObjective(3.0)(embedding, torch.zeros(5), teacher)
    differences = [
        functional.cosine_similarity(embedding[i], embedding[j], 0)
        - functional.cosine_similarity(teacher[i], teacher[j], 0)
        for i in range(5)
        for j in range(5)
        if i != j
    ]
    expected = torch.stack(differences).square().mean()
    torch.testing.assert_close(parts["relation"], expected.detach())
    torch.testing.assert_close(loss, 3 * expected)
    (found,) = torch.autograd.grad(loss, embedding)
    torch.testing.assert_close(found, torch.autograd.grad(3 * expected, embedding)[0])


def test_relations_do_not_see_turns_lengths_and_zeros() -> None:
    embedding = rows(6, 4, 0)
    turn = torch.linalg.qr(rows(9, 4, 1)).Q
    longer = embedding @ turn.T * torch.arange(1, 7)[:, None]
    loss, _ = RelationalObjective(1.0)(embedding, torch.zeros(6), longer)
    assert float(loss) < 1e-10
    alone, _ = RelationalObjective(1.0)(embedding[:1], torch.zeros(1), longer[:1])
    assert float(alone) == 0


def test_a_learned_matrix_starts_from_the_principal_directions(faces: Path, values: dict[str, Any]) -> None:
    parts = assemble(tiny_recipe(faces, **values, distillation__match="linear"), ALONE)
    assert parts.teacher is not None
    assert parts.projections is not None
    assert parts.teacher.embedding_dim == LONGER
    matrix = parts.projections["embedding"].weight
    assert matrix.shape == (LONGER, parts.model.embedding_dim)
    identity = torch.eye(parts.model.embedding_dim)
    torch.testing.assert_close(matrix.T @ matrix, identity, rtol=0, atol=1e-5)
    assert "maps.embedding.weight" in parts.parameters


def test_a_teacher_of_the_pupil_s_length_starts_from_itself(
    faces: Path, values: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "t.safetensors"
    save_weights(
        randomize_(pocketnet_fast.create_model("pocketnet", channels=3, layers=4, embedding_dim=8), 1), path
    )
    changed = {**values, "distillation__teacher": str(path), "distillation__match": "linear"}
    parts = assemble(tiny_recipe(faces, **changed), ALONE)
    assert parts.projections is not None
    assert torch.equal(parts.projections["embedding"].weight, torch.eye(8))


@pytest.mark.slow
@MATCHES
@pytest.mark.parametrize("maps", [False, True])
def test_is_learned(faces: Path, values: dict[str, Any], tmp_path: Path, match: str, maps: bool) -> None:
    recipe = tiny_recipe(
        faces,
        **{**values, "schedule__epochs": 6, "distillation__fit_tail": False},
        distillation__match=match,
        distillation__map_weight=0.1 if maps else 0.0,
    )
    outcome = train(recipe, tmp_path / "run")
    epochs = lines(tmp_path / "run", "epoch")
    part = {"linear": "unit", "relational": "relation"}[match]
    assert epochs[-1][part] < epochs[0][part]
    assert ("map 7" in epochs[0]) == maps
    # What the matrix was learned for is over with the training.
    backbone = weights(tmp_path / "run")
    assert not any("embedding" in name or "projection" in name for name in backbone)
    assert pocketnet_fast.create_model(
        "pocketnet", channels=2, layers=4, embedding_dim=8, weights=outcome.weights
    )


@pytest.mark.slow
def test_resumes_bit_for_bit(
    faces: Path, values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(faces, **values, distillation__match="linear")
    kinds = ("backbone", "ema", "maps", "state")
    assert_resumes_bit_for_bit(recipe, 3, kinds, tmp_path, monkeypatch)


@MATCHES
@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("[loss]\nobjective = 'margin_kd'", r"needs loss\.objective 'features'"),
        ("[loss]\nobjective = 'features'\n[distillation]\nmulti_step = true", "choose one"),
    ],
)
def test_what_cannot_be_matched_is_refused(match: str, section: str, message: str) -> None:
    with pytest.raises(PocketNetError, match=message):
        Recipe.from_toml(section, "r", {"distillation.match": match})


def test_relations_compare_no_single_embeddings() -> None:
    changes = {"distillation.match": "relational", "distillation.feature_weight": "1"}
    with pytest.raises(PocketNetError, match="feature_weight compares embeddings one by one"):
        Recipe.from_toml("[loss]\nobjective = 'features'", "r", changes)
