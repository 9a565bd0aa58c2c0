"""What a recipe describes, built: data, networks, loss, optimiser, on this process."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from pocketnet_fast.data.augment import Augmentation
from pocketnet_fast.data.dataset import FaceDataset
from pocketnet_fast.data.loader import FaceLoader, make_loader
from pocketnet_fast.data.opening import open_dataset
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.losses import ShardedMargin
from pocketnet_fast.models.base import EmbeddingModel
from pocketnet_fast.resumable.distributed import Processes
from pocketnet_fast.resumable.folder import Progress
from pocketnet_fast.training import sharding
from pocketnet_fast.training.checkpoint import Contents, RunFolder
from pocketnet_fast.training.ema import AveragedModel
from pocketnet_fast.training.embedding_fit import fit_embedding
from pocketnet_fast.training.maps import MapObjective, MapPupil, copy_tail, make_pupil, map_weights
from pocketnet_fast.training.objective import make_objective
from pocketnet_fast.training.optimizer import (
    Parameters,
    load_state_tensors,
    make_optimizer,
    state_tensors,
)
from pocketnet_fast.training.projection import project_teacher
from pocketnet_fast.training.recipe import Recipe
from pocketnet_fast.training.sampling import sampled_faces
from pocketnet_fast.training.step import Stepper
from pocketnet_fast.training.sync_bn import synchronize_statistics
from pocketnet_fast.training.teacher import Teacher, build_model, check_teacher, load_teacher

_KERNEL = "header.kernel"
_MAPS = "maps"


@dataclass
class Parts:
    """The pieces of a run on this process.

    Attributes:
        dataset: The training data.
        loader: Its batches for this process.
        model: The backbone.
        head: This process's class centres; None without a margin.
        projections: The projections of feature maps and embeddings; None where none are learned.
        ema: The running average, or None.
        teacher: Or None.
        optimizer: Over ``parameters``.
        parameters: By name; the class centres are "header.kernel".
        stepper: Makes the steps.
        steps_per_epoch: The number of steps of each epoch; batches that fill no whole step are left out.
        images_per_step: Over all processes and accumulated batches.
    """

    dataset: FaceDataset
    loader: FaceLoader
    model: EmbeddingModel
    head: ShardedMargin | None
    projections: nn.ModuleDict | None
    ema: AveragedModel[EmbeddingModel] | None
    teacher: Teacher | None
    optimizer: torch.optim.Optimizer
    parameters: Parameters
    stepper: Stepper
    steps_per_epoch: int
    images_per_step: int


def assemble(
    recipe: Recipe, processes: Processes, folder: Path | None = None, *, resumed: bool = False
) -> Parts:
    """Build everything; the weights depend on the recipe's seed, the data and the teacher alone.

    Args:
        recipe: The recipe of the run.
        processes: The processes of the run.
        folder: The folder of the run, where a teacher's projection is kept; None: nowhere.
        resumed: Whether ``restore`` will replace the weights, so that fitting them would be lost.

    Raises:
        PocketNetError: The data, a weight file or the teacher cannot be used.
    """
    recipe.check_complete()
    assert recipe.data.source is not None
    dataset = open_dataset(recipe.data.source)
    check_batch(recipe.data.batch_size, recipe.run.sync_bn and processes.ranks > 1)
    if recipe.loss.objective != "features":
        check_identities(dataset)
    loader = _loader(recipe, dataset, processes)
    accumulate = recipe.optimizer.accumulate
    steps_per_epoch = loader.sampler.steps_per_epoch // accumulate
    if steps_per_epoch == 0:
        raise PocketNetError(
            f"{len(dataset)} images make {loader.sampler.steps_per_epoch} batches; a step takes {accumulate}"
        )

    model = _model(recipe, processes)
    head = None
    if recipe.loss.objective != "features":
        head = _head(recipe, model.embedding_dim, dataset.classes, processes)
    teacher = None
    if recipe.loss.objective != "margin":
        teacher = _teacher(recipe, model, dataset, processes, folder, resumed)
    network: nn.Module = model
    projections = map_objective = None
    pupil = None if teacher is None else _pupil(recipe, model, teacher)
    if pupil is not None:
        network, projections = pupil, pupil.projections
        map_objective = MapObjective(map_weights(recipe.distillation))

    ema = AveragedModel(model, recipe.optimizer.ema_decay) if recipe.optimizer.ema_decay else None
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if head is not None:
        parameters[_KERNEL] = head.kernel
    if projections is not None:
        parameters |= {f"{_MAPS}.{name}": p for name, p in projections.named_parameters()}
    optimizer = make_optimizer(recipe.optimizer, parameters)
    objective = make_objective(head, recipe.distillation, recipe.loss.objective)
    # Running statistics are those of the first process, which alone saves and verifies them.
    network = processes.average_gradients(network)
    stepper = Stepper(
        network, model.input_spec, objective, optimizer, teacher, recipe, processes, map_objective
    )
    return Parts(
        dataset,
        loader,
        model.train(),
        head,
        projections,
        ema,
        teacher,
        optimizer,
        parameters,
        stepper,
        steps_per_epoch,
        recipe.data.batch_size * accumulate * processes.ranks,
    )


def _head(recipe: Recipe, embedding_dim: int, classes: int, processes: Processes) -> ShardedMargin:
    loss = recipe.loss
    head = ShardedMargin(
        embedding_dim,
        classes,
        scale=loss.scale,
        margins=(loss.margins[0], loss.margins[1], loss.margins[2]),
        easy_margin=loss.easy_margin,
        sample_rate=loss.sample_rate,
        average_gradients=processes.ranks > 1,
        precision=recipe.run.precision if processes.device.type == "cpu" else "fp32",
    )
    sharding.initialize(head, recipe.run.seed)
    return head.to(processes.device)


def _teacher(
    recipe: Recipe,
    model: EmbeddingModel,
    dataset: FaceDataset,
    processes: Processes,
    folder: Path | None,
    resumed: bool,
) -> Teacher:
    """Load the teacher, and let the model begin as near to it as the recipe says."""
    distillation = recipe.distillation
    teacher = load_teacher(distillation, model.embedding_dim, recipe.schedule.epochs, processes.device)
    check_teacher(teacher, next(sampled_faces(dataset, 32)).to(processes.device))
    if teacher.embedding_dim > model.embedding_dim:
        project_teacher(teacher, model.embedding_dim, dataset, processes, folder)
    if distillation.copy_tail:
        copy_tail(model, teacher)
    if distillation.fit_tail and not resumed:
        fit_embedding(model, teacher, dataset)
    return teacher


def check_batch(images: int, pooled: bool) -> None:
    """Refuse batches of one image, whose normalisation has nothing to compare it with.

    Args:
        images: The number of images of one process.
        pooled: Whether batch statistics are those of several processes.

    Raises:
        PocketNetError: There is one.
    """
    if images == 1 and not pooled:
        raise PocketNetError(
            "data.batch_size is 1, and batch normalisation needs at least 2 images; "
            "--set optimizer.accumulate=N makes a step of several small batches"
        )


def check_identities(dataset: FaceDataset) -> None:
    """Refuse data of one identity, from which nothing can be told apart.

    Raises:
        PocketNetError: There is one.
    """
    if dataset.classes < 2:
        raise PocketNetError(
            f"{dataset.name} holds one identity; a network learns to tell identities apart from at least 2"
        )


def contents(parts: Parts, progress: Progress, processes: Processes) -> Contents | None:
    """What a checkpoint saves; all processes call this, and the first one gets it."""
    tensors = state_tensors(parts.optimizer, parts.parameters)
    kernel = None
    if parts.head is not None:
        classes = parts.head.classes
        kernel = sharding.gather_columns(parts.head.kernel, classes, processes)
        for name in sorted(tensors):
            if name.endswith(f".{_KERNEL}") and tensors[name].dim():
                whole = sharding.gather_columns(tensors[name], classes, processes)
                if whole is not None:
                    tensors[name] = whole
    if not processes.first:
        return None
    ema = None if parts.ema is None else parts.ema.model
    return Contents(parts.model, kernel, ema, tensors, progress, parts.projections)


def restore(parts: Parts, folder: RunFolder, progress: Progress) -> None:
    """Put a whole checkpoint's contents into this process's parts.

    Raises:
        PocketNetError: They do not fit.
    """
    from pocketnet_fast.models.weights import load_weights

    step = progress.step
    load_weights(parts.model, folder.file(step, "backbone"))
    if parts.ema is not None:
        load_weights(parts.ema.model, folder.file(step, "ema"))
        parts.ema.updates = progress.ema_updates
    if parts.projections is not None:
        load_weights(parts.projections, folder.file(step, "maps"))
    head = parts.head
    if head is not None:
        saved = folder.columns(step, head.first, head.first + head.kernel.shape[1])
        if saved.shape != head.kernel.shape:
            raise PocketNetError(
                f"{folder.file(step, 'header')} does not hold the {head.classes} classes of the data"
            )
        with torch.no_grad():
            head.kernel.copy_(saved)

    def part(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if name != _KERNEL or head is None or not tensor.dim():
            return tensor
        return tensor[:, head.first : head.first + head.kernel.shape[1]]

    load_state_tensors(parts.optimizer, parts.parameters, folder.optimizer_tensors(step), part)


def _pupil(recipe: Recipe, model: EmbeddingModel, teacher: Teacher) -> MapPupil | None:
    """The network with what is learned beside it to compare it with the teacher; None: nothing is."""
    names, start = tuple(map_weights(recipe.distillation)), None
    if recipe.distillation.compares_whole_embeddings:
        # Its fewer dimensions were for fitting the pupil's last layers, and are where the matrix starts.
        projection = teacher.unproject()
        if recipe.distillation.match == "linear":
            start = torch.eye(model.embedding_dim) if projection is None else projection
    if not names and start is None:
        return None
    return make_pupil(model, teacher, names, recipe.run.seed, start)


def _loader(recipe: Recipe, dataset: FaceDataset, processes: Processes) -> FaceLoader:
    data = recipe.data
    return make_loader(
        dataset,
        batch_size=data.batch_size,
        augmentation=Augmentation(data.flip, data.turn, data.crop, data.color, data.blur, data.cutout),
        seed=recipe.run.seed,
        rank=processes.rank,
        ranks=processes.ranks,
        workers=min(data.workers, os.cpu_count() or 1),
        pin_memory=processes.device.type == "cuda",
    )


def _model(recipe: Recipe, processes: Processes) -> EmbeddingModel:
    torch.manual_seed(recipe.run.seed)
    model = build_model(recipe.model)
    if hasattr(model, "fused"):
        setattr(model, "fused", recipe.model.fused)  # noqa: B010 - not every network has it
    elif recipe.model.fused is True:
        raise PocketNetError(f"model.fused is true, and {recipe.model.name} has no fused blocks to train")
    if recipe.run.sync_bn and processes.ranks > 1:
        synchronize_statistics(model, processes.device)
    return model.to(processes.device)
