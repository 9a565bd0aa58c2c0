"""Networks that teach: of this package, TorchScript or ONNX files, or a run whose epochs teach in turn."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.lowering.compiled import compile
from pocketnet_fast.lowering.networks import has_fused_form
from pocketnet_fast.models.architectures import list_models
from pocketnet_fast.models.base import EmbeddingModel, InputSpec
from pocketnet_fast.models.checkpoint_file import is_torchscript
from pocketnet_fast.models.loading import load_model
from pocketnet_fast.models.registry import create_model
from pocketnet_fast.models.weights import load_weights
from pocketnet_fast.training.checkpoint import RunFolder, epoch_weights
from pocketnet_fast.training.inputs import network_input, uint8_images
from pocketnet_fast.training.onnx_network import OnnxNetwork
from pocketnet_fast.training.recipe import DistillationRecipe, ModelRecipe

_TORCH_SUFFIXES = (".pt", ".pth", ".ckpt")
_SMALLEST_AGREEMENT = 0.5


class Teacher:
    """A network in evaluation mode that embeds training images without gradients.

    Args:
        name: How messages call it.
        network: It and its embeddings' length stay the same over a run; its weights may change by epoch.
        spec: Its own normalisation and channel order.
        embedding_dim: Length of its embeddings.
        takes_uint8: Whether it takes uint8 N,112,112,3 instead of normalised images.
        color: Channel order of uint8 images.
        epochs: Weights by epoch from 1, for a teacher that changes.
        precision: The precision of a network that embeds on the fused kernels: "fp32" or "bf16".

    Attributes:
        own_threads: Whether it computes in threads of its own, beside which the pupil can compute.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        spec: InputSpec,
        embedding_dim: int,
        *,
        takes_uint8: bool = False,
        color: str = "rgb",
        epochs: dict[int, Path] | None = None,
        precision: str = "fp32",
    ) -> None:
        self.name, self.spec, self.embedding_dim = name, spec, embedding_dim
        # Convolutions on the CPU take 20 instead of 31 ms per image of MobileFaceNet in this format.
        self.memory_format = torch.preserve_format
        self.own_threads = isinstance(network, OnnxNetwork)
        self._projection: Tensor | None = None
        if not isinstance(network, torch.jit.ScriptModule | OnnxNetwork):
            self.memory_format = torch.channels_last
            network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network = network.eval()
        for parameter in network.parameters():
            parameter.requires_grad_(False)
        self.takes_uint8, self.color = takes_uint8, color
        self.epochs = epochs
        self.precision = precision
        self._compiled: nn.Module | None = None

    @property
    def engine(self) -> str:
        """What embeds where no maps are asked for, in words."""
        if isinstance(self.network, OnnxNetwork):
            return "onnxruntime"
        if isinstance(self.network, torch.jit.ScriptModule):
            return "TorchScript"
        return f"fused kernels, {self.precision}" if self._fuses() else "eager PyTorch"

    def _fuses(self) -> bool:
        if not has_fused_form(self.network):
            return False
        return all(parameter.device.type == "cpu" for parameter in self.network.parameters())

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Embed a batch.

        Args:
            images: As ``network_input`` takes them.

        Returns:
            float32 N,``embedding_dim``, not normalised.
        """
        if self._fuses():
            embedding = self._embed_fused(images)
        elif self.takes_uint8:
            pixels = uint8_images(images)
            embedding = self.network(pixels if self.color == "rgb" else pixels.flip(-1))
        else:
            x = network_input(images, self.spec)
            embedding = self.network(x.to(memory_format=self.memory_format))
        return self._projected(embedding.float())

    def _embed_fused(self, images: Tensor) -> Tensor:
        if self._compiled is None:
            self._compiled = compile(self.network, precision=self.precision)
        # The network's own normalisation is in its first step.
        own = images.dtype == torch.uint8 and self.spec == getattr(self.network, "input_spec", None)
        embedding: Tensor = self._compiled(images if own else network_input(images, self.spec))
        return embedding

    def project(self, projection: Tensor) -> None:
        """Give embeddings of unit length times a matrix from now on.

        Args:
            projection: float32 D,K; ``embedding_dim`` becomes K.
        """
        self._projection = projection
        self.embedding_dim = projection.shape[1]

    def unproject(self) -> Tensor | None:
        """Give embeddings as the network does again; returns the matrix of ``project``, if there was one."""
        projection, self._projection = self._projection, None
        if projection is not None:
            self.embedding_dim = projection.shape[0]
        return projection

    def _projected(self, embedding: Tensor) -> Tensor:
        if self._projection is None:
            return embedding
        return functional.normalize(embedding) @ self._projection

    @torch.no_grad()
    def with_maps(self, images: Tensor, names: Collection[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Embed a batch and keep feature maps; see ``EmbeddingModel.forward_maps``.

        Raises:
            PocketNetError: The network is neither one of this package nor an ONNX file, or it has no
                such map.
        """
        if not names:
            return self(images), {}
        if not isinstance(self.network, EmbeddingModel | OnnxNetwork):
            raise PocketNetError(
                f"{self.name} shows no feature maps: it is neither a network of this package nor an ONNX file"
            )
        x = network_input(images, self.spec).to(memory_format=self.memory_format)
        embedding, maps = self.network.forward_maps(x, names)
        return self._projected(embedding.float()), {name: value.float() for name, value in maps.items()}

    def enter_epoch(self, epoch: int) -> None:
        """Become the teacher of an epoch, counted from 1."""
        if self.epochs is not None:
            load_weights(self.network, self.epochs[epoch])
            self._compiled = None


@torch.no_grad()
def check_teacher(teacher: Teacher, faces: Tensor) -> None:
    """Raise unless a teacher's embeddings are finite and hardly change when its faces are mirrored.

    A network that was fed pixels of another range or order than it was trained on still answers, with
    embeddings that say little about the person.

    Args:
        teacher: Any.
        faces: uint8 N,112,112,3, RGB.

    Raises:
        PocketNetError: With what to try.
    """
    there, mirrored = teacher(faces), teacher(faces.flip(2))
    spec = teacher.spec
    fed = f"{teacher.name} was given (x / 255 - {spec.mean[0]:g}) / {spec.std[0]:g}, {spec.color.upper()}"
    advice = "; try others by distillation.teacher_mean, teacher_std and teacher_color"
    if not (there.isfinite().all() and mirrored.isfinite().all()):
        raise PocketNetError(f"{fed}, and gives embeddings that are not finite{advice}")
    agreement = functional.cosine_similarity(there, mirrored).mean().item()
    if not agreement >= _SMALLEST_AGREEMENT:
        raise PocketNetError(
            f"{fed}, and its embeddings of faces and of their mirror images agree by a cosine of "
            f"{agreement:.2f} only (expected at least {_SMALLEST_AGREEMENT:g}){advice}"
        )


def load_teacher(
    recipe: DistillationRecipe, embedding_dim: int, epochs: int, device: torch.device
) -> Teacher:
    """Find and load the teacher of a recipe.

    A weight file of this package names its architecture; of others, keys and shapes tell, or
    ``teacher_model``. A TorchScript file of
    this package says what input it takes; another one, and an ONNX file, gets float N,3,112,112 as
    ``teacher_mean``, ``teacher_std`` and ``teacher_color`` say, by default ``(x / 255 - 0.5) / 0.5``, RGB.
    A run's folder teaches with the weights after its last epoch; with ``multi_step``, epoch e is taught by
    those after its epoch e.

    Args:
        recipe: Its ``teacher`` is given.
        embedding_dim: The length of the embedding of the pupil.
        epochs: The number of epochs of the pupil's schedule.
        device: Where it runs.

    Raises:
        PocketNetError: It cannot be found or loaded, an epoch that will be needed is missing, or its
            embeddings are shorter than the pupil's, or longer and ``match`` is "equal".
    """
    assert recipe.teacher is not None
    path = Path(recipe.teacher)
    if recipe.multi_step and not path.is_dir():
        raise PocketNetError(f"{path}: multi-step distillation needs a training run's folder as its teacher")
    if path.is_dir():
        teacher = _from_run(path, recipe, epochs)
    elif path.suffix in _TORCH_SUFFIXES and is_torchscript(path):
        teacher = _from_torchscript(path, recipe, device)
    elif path.suffix == ".onnx" and path.is_file():
        network = OnnxNetwork(path)
        teacher = Teacher(str(path), network, _stated_spec(recipe), network.embedding_dim)
    elif path.is_file():
        teacher = _from_weights(path, recipe)
    elif recipe.teacher in list_models():
        model = create_model(recipe.teacher, pretrained=True)
        teacher = _of_package(recipe.teacher, model, recipe)
    else:
        raise PocketNetError(
            f"no teacher {recipe.teacher}: expected a weight file, a TorchScript or ONNX file, a run's "
            "folder, or the name of a network whose weights ship with the package"
        )
    # A projection is measured once, and a teacher of many epochs turns its space on the way.
    fixed = recipe.match == "equal" or recipe.multi_step
    if teacher.embedding_dim < embedding_dim or (teacher.embedding_dim > embedding_dim and fixed):
        raise PocketNetError(
            f"the embeddings of the teacher {teacher.name} have {teacher.embedding_dim} dimensions, the "
            f"pupil's {embedding_dim}; they must agree (model.embedding_dim sets the pupil's), or "
            "distillation.match bring a longer one to the pupil's"
        )
    teacher.network.to(device)
    return teacher


def build_model(recipe: ModelRecipe) -> EmbeddingModel:
    """Build the network of a recipe, with the weights it names or random ones."""
    return create_model(
        recipe.name,
        weights=recipe.weights,
        embedding_dim=recipe.embedding_dim,
        genotype=recipe.genotype,
        channels=recipe.channels,
        layers=recipe.layers,
    )


def _from_run(path: Path, recipe: DistillationRecipe, epochs: int) -> Teacher:
    files = epoch_weights(path)
    if recipe.multi_step:
        gaps = [epoch for epoch in range(1, epochs + 1) if epoch not in files]
        if gaps:
            raise PocketNetError(
                f"{path} lacks the weights after epoch {', '.join(map(str, gaps[:8]))}"
                f"{' ...' if len(gaps) > 8 else ''}; multi-step distillation over {epochs} epochs needs each "
                "(run.keep_epochs keeps them)"
            )
    if not files:
        raise PocketNetError(f"{path} holds no weights of a whole epoch yet")
    last = files[max(files)]
    run = RunFolder(path)
    if run.holds_run:
        model_recipe = run.recipe().model
        model = build_model(ModelRecipe(**{**vars(model_recipe), "weights": None}))
        load_weights(model, last)
    else:
        model = load_model(last, recipe.teacher_model)
    chosen = {epoch: files[epoch] for epoch in range(1, epochs + 1)} if recipe.multi_step else None
    return _of_package(str(path), model, recipe, chosen)


def _from_weights(path: Path, recipe: DistillationRecipe) -> Teacher:
    return _of_package(str(path), load_model(path, recipe.teacher_model), recipe)


def _of_package(
    name: str, model: EmbeddingModel, recipe: DistillationRecipe, epochs: dict[int, Path] | None = None
) -> Teacher:
    precision = recipe.teacher_precision
    return Teacher(name, model, model.input_spec, model.embedding_dim, epochs=epochs, precision=precision)


def _stated_spec(recipe: DistillationRecipe) -> InputSpec:
    mean, std = (recipe.teacher_mean,) * 3, (recipe.teacher_std,) * 3
    return InputSpec(mean=mean, std=std, color=recipe.teacher_color)


def _from_torchscript(path: Path, recipe: DistillationRecipe, device: torch.device) -> Teacher:
    from pocketnet_fast.export.source import METADATA_FILE
    from pocketnet_fast.export.torchscript_file import read_metadata

    with zipfile.ZipFile(path) as archive:
        ours = any(name.endswith(f"/extra/{METADATA_FILE}") for name in archive.namelist())
    spec, takes_uint8, color = _stated_spec(recipe), False, "rgb"
    if ours:
        metadata = read_metadata(path)
        stated = metadata["input"]
        takes_uint8, color = stated["dtype"] == "uint8", stated["color"]
        normalization = stated["normalization"]
        spec = InputSpec(mean=tuple(normalization["mean"]), std=tuple(normalization["std"]), color=color)
        if metadata["kernels"] == "fused":
            from pocketnet_fast.ops.native import extension

            extension()
            if device.type != "cpu":
                raise PocketNetError(
                    f"{path} runs on the fused kernels, which have no form for {device.type}"
                )
    network = _scripted(path, device)
    teacher = Teacher(str(path), network, spec, 0, takes_uint8=takes_uint8, color=color)
    probe = torch.zeros(1, *spec.size, 3, dtype=torch.uint8, device=device)
    answer = _answer(teacher, probe)
    if answer.dim() != 2 or answer.shape[0] != 1:
        raise PocketNetError(f"{path} gives {tuple(answer.shape)} for one face; expected one embedding, 1,D")
    teacher.embedding_dim = answer.shape[1]
    return teacher


def _quiet(call: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", r".*torch\.jit\.", category)
        return call()


def _scripted(path: Path, device: torch.device) -> nn.Module:
    try:
        network: nn.Module = _quiet(lambda: torch.jit.load(str(path), map_location=device))
    except RuntimeError as error:
        raise PocketNetError(
            f"{path}: cannot be loaded as TorchScript: {str(error).partition(chr(10))[0]}"
        ) from None
    return network


def _answer(teacher: Teacher, probe: Tensor) -> Tensor:
    try:
        return teacher(probe)
    except (RuntimeError, AttributeError) as error:
        last = str(error).strip().rpartition("\n")[2]
        raise PocketNetError(f"{teacher.name} does not embed a face of 112x112: {last}") from None
