"""ONNX files that teach: what they may be, their maps, their embeddings in fewer dimensions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from onnx_files import DIMENSIONS, write_embedder
from torch.nn import functional

from pocketnet_fast import create_model
from pocketnet_fast.data.opening import open_dataset
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.models.base import InputSpec
from pocketnet_fast.resumable.distributed import Processes
from pocketnet_fast.training.embedding_fit import fit_embedding
from pocketnet_fast.training.onnx_network import OnnxNetwork
from pocketnet_fast.training.projection import PROJECTION_NAME, principal_directions, project_teacher
from pocketnet_fast.training.recipe import DistillationRecipe, load_recipe
from pocketnet_fast.training.sampling import sampled_faces
from pocketnet_fast.training.teacher import Teacher, check_teacher, load_teacher
from pocketnet_fast.training.trainer import train

CPU = torch.device("cpu")
ALONE = Processes(0, 1, CPU)
FACES = "synthetic:identities=10,images=4"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_embedder(tmp_path_factory.mktemp("onnx") / "teacher.onnx")


def teacher_of(path: Path) -> Teacher:
    network = OnnxNetwork(path)
    return Teacher(str(path), network, InputSpec(), network.embedding_dim)


@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize("batch", ["n", 1, 4])
def test_any_number_of_faces_whatever_the_file_fixes(tmp_path: Path, count: int, batch: int | str) -> None:
    network = OnnxNetwork(write_embedder(tmp_path / "x.onnx", batch=batch))
    x = torch.randn(5, 3, 112, 112)
    whole = OnnxNetwork(write_embedder(tmp_path / "y.onnx"))(x)
    found = network(x[:count]) if count else network(x[:1])[:0]
    assert found.shape == (count, DIMENSIONS)
    torch.testing.assert_close(found, whole[:count])


def test_maps_are_the_last_of_their_height(path: Path) -> None:
    network = OnnxNetwork(path)
    x = torch.randn(2, 3, 112, 112)
    embedding, maps = network.forward_maps(x, ("14", "7"))
    assert {name: tuple(value.shape) for name, value in maps.items()} == {
        "14": (2, 8, 14, 14),
        "7": (2, 12, 7, 7),
    }
    # The activations after the convolutions are the last ones.
    assert maps["14"].min() == 0
    torch.testing.assert_close(embedding, network(x))
    with pytest.raises(PocketNetError, match=r"no feature map 28; it has maps of 14, 7"):
        network.forward_maps(x, ("28",))


def test_refused_files(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(PocketNetError, match="cannot be loaded as an ONNX file"):
        OnnxNetwork(tmp_path / "text.onnx")
    with pytest.raises(PocketNetError, match=r"expected one input of float N,3,112,112"):
        OnnxNetwork(write_embedder(tmp_path / "small.onnx", side=96))


def test_a_recipe_finds_it_and_says_how_pixels_go_in(path: Path) -> None:
    recipe = DistillationRecipe(teacher=str(path), teacher_mean=0.4, teacher_std=0.2, teacher_color="bgr")
    teacher = load_teacher(recipe, DIMENSIONS, 1, CPU)
    pixels = torch.randint(0, 256, (2, 112, 112, 3), dtype=torch.uint8)
    x = (pixels.flip(-1).permute(0, 3, 1, 2) / 255 - 0.4) / 0.2
    torch.testing.assert_close(teacher(pixels), OnnxNetwork(path)(x), rtol=1e-4, atol=1e-4)
    with pytest.raises(PocketNetError, match=r"24 dimensions, the pupil's 32"):
        load_teacher(recipe, 32, 1, CPU)
    with pytest.raises(PocketNetError, match=r"distillation\.match"):
        load_teacher(DistillationRecipe(teacher=str(path), match="equal"), 16, 1, CPU)


class _Answers(torch.nn.Module):
    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.answer(x)  # type: ignore[operator]


def test_a_teacher_that_does_not_agree_with_itself_is_refused() -> None:
    faces = torch.randint(0, 256, (8, 112, 112, 3), dtype=torch.uint8)
    check_teacher(Teacher("good", _Answers(lambda x: x.mean((2, 3)) + 5), InputSpec(), 3), faces)
    unstable = Teacher("wild", _Answers(lambda x: x[:, 0, 0] - 0 * x[:, 0, 1]), InputSpec(), 112)
    with pytest.raises(PocketNetError, match=r"cosine of .* only .*teacher_color"):
        check_teacher(unstable, faces)
    broken = Teacher("broken", _Answers(lambda x: x.mean((2, 3)).log()), InputSpec(), 3)
    with pytest.raises(PocketNetError, match="not finite"):
        check_teacher(broken, torch.zeros_like(faces))


def test_principal_directions_keep_what_lies_in_a_plane() -> None:
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(24, 3, generator=generator)).Q
    rows = torch.randn(50, 3, generator=generator) @ basis.T
    directions = principal_directions(rows, 3)
    unit = functional.normalize(rows)
    torch.testing.assert_close(unit @ directions @ directions.T @ unit.T, unit @ unit.T, rtol=0, atol=1e-5)
    torch.testing.assert_close(directions.T @ directions, torch.eye(3), rtol=0, atol=1e-6)
    assert (directions.gather(0, directions.abs().argmax(0, keepdim=True)) > 0).all()
    with pytest.raises(PocketNetError, match="more faces"):
        principal_directions(rows[:2], 3)


def test_the_projection_is_kept_with_the_run(path: Path, tmp_path: Path) -> None:
    dataset = open_dataset(FACES)
    first, second = teacher_of(path), teacher_of(path)
    project_teacher(first, 16, dataset, ALONE, tmp_path)
    assert (tmp_path / PROJECTION_NAME).is_file()
    project_teacher(second, 16, open_dataset("synthetic:identities=20,images=1"), ALONE, tmp_path)
    pixels = next(sampled_faces(dataset, 4))
    assert torch.equal(first(pixels), second(pixels))
    assert first(pixels).shape == (4, 16)
    with pytest.raises(PocketNetError, match="projects 24 to 16"):
        project_teacher(teacher_of(path), 8, dataset, ALONE, tmp_path)
    (tmp_path / PROJECTION_NAME).write_bytes(b"torn")
    with pytest.raises(PocketNetError, match="damaged"):
        project_teacher(teacher_of(path), 16, dataset, ALONE, tmp_path)


def test_a_fitted_tail_gives_the_teacher_s_embeddings(path: Path) -> None:
    """512 features of 40 faces determine any embedding; at evaluation the fit is what the network gives."""
    dataset = open_dataset(FACES)
    torch.manual_seed(0)
    model = create_model(
        "pocketnet", genotype="softmax_casia", channels=4, layers=4, embedding_dim=DIMENSIONS
    ).train()
    teacher = teacher_of(path)
    fit_embedding(model, teacher, dataset)
    assert model.training
    pixels = torch.cat([*sampled_faces(dataset, 40)])
    with torch.no_grad():
        found = model.eval()(model.input_spec.normalize(pixels))
    agreement = functional.cosine_similarity(found, teacher(pixels))
    assert agreement.min() > 0.95


def test_a_run_keeps_its_projection(path: Path, tmp_path: Path) -> None:
    changes = {
        "data.source": FACES,
        "data.batch_size": "8",
        "data.workers": "0",
        "data.turn": "0.5",
        "model.name": "pocketnet",
        "model.genotype": "softmax_casia",
        "model.channels": "4",
        "model.layers": "4",
        "model.embedding_dim": "16",
        "distillation.teacher": str(path),
        "distillation.copy_tail": "false",
        "distillation.tail_weight": "0",
        "distillation.maps": '["7"]',
        "distillation.fit_tail": "true",
        "schedule.epochs": "2",
        "schedule.warmup_epochs": "0",
        "run.tensorboard": "false",
    }
    recipe = load_recipe("transfer_distill", changes)
    whole = train(recipe, tmp_path / "whole")
    assert whole.finished
    for name in ("map 7", "unit"):
        assert name in (tmp_path / "whole" / "log.jsonl").read_text()
    kept, weights = (tmp_path / "whole" / PROJECTION_NAME).read_bytes(), whole.weights.read_bytes()
    again = train(None, tmp_path / "whole", resume=True)
    assert (again.weights.read_bytes(), again.step) == (weights, whole.step)
    assert (tmp_path / "whole" / PROJECTION_NAME).read_bytes() == kept
