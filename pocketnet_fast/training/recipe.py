"""Recipes: all that determines a training run, as TOML with one table per section.

A recipe file names only what differs from the defaults below, which are the published ones (PocketNet, arXiv
2108.10710, section IV). The resolved recipe, every value written out, is saved with its run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.training.recipe_values import limited
from pocketnet_fast.training.toml_recipe import TomlRecipe, described_recipes, recipe_text

_RECIPES: Final = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class ModelRecipe:
    """The network that is trained.

    Attributes:
        name: As in ``create_model``.
        embedding_dim: Length of the embedding; default: the architecture's own.
        genotype: For "pocketnet": a published genotype's name or the text form of one.
        channels: For "pocketnet".
        layers: For "pocketnet".
        weights: Weight file to start from; default: random weights.
        fused: Whether the blocks train on fused kernels, for models that have them.
    """

    name: str = "pocketnet_s128"
    embedding_dim: int | None = limited(None, 1)
    genotype: str | None = None
    channels: int | None = limited(None, 1)
    layers: int | None = limited(None, 4)
    weights: str | None = None
    fused: Literal["auto"] | bool = "auto"


@dataclass(frozen=True)
class DataRecipe:
    """The images, how they are batched, and how they are varied.

    Attributes:
        source: What ``data.open_dataset`` takes; required to train.
        batch_size: Images of one process in one forward pass.
        workers: Processes that decode, per training process, but no more than there are processors; 0: the
            training process itself. Their number changes nothing else.
        flip: Probability that an image is mirrored; this and the next are ``data.augment.Augmentation``'s.
        turn: Probability that the face is seen from another side.
        crop: Probability of a random crop.
        color: Probability of changed brightness, contrast, saturation and hue.
        blur: Probability of blur or compression.
        cutout: Probability of a hidden rectangle.
    """

    source: str | None = None
    batch_size: int = limited(128, 1)
    workers: int = limited(4, 0)
    flip: float = limited(0.5, 0, 1)
    turn: float = limited(0.0, 0, 1)
    crop: float = limited(0.0, 0, 1)
    color: float = limited(0.0, 0, 1)
    blur: float = limited(0.0, 0, 1)
    cutout: float = limited(0.0, 0, 1)


@dataclass(frozen=True)
class LossRecipe:
    """What is minimised.

    Attributes:
        objective: "margin": the margin softmax alone; "margin_kd": beside the distillation term; "features":
            regression of the teacher's embeddings alone, for which labels do not matter.
        scale: s, the factor of the cosines.
        margins: (m1, m2, m3) of cos(m1 * theta + m2) - m3.
        easy_margin: Apply margins only where the label's cosine is positive.
        sample_rate: Part of the classes that a step's softmax takes (Partial FC).
    """

    objective: Literal["margin", "margin_kd", "features"] = "margin"
    scale: float = limited(64.0, 0, above=True)
    margins: tuple[float, ...] = (1.0, 0.5, 0.0)
    easy_margin: bool = False
    sample_rate: float = limited(1.0, 0, 1, above=True)


@dataclass(frozen=True)
class OptimizerRecipe:
    """How weights follow gradients.

    Attributes:
        kind: "sgd" with momentum, "adamw", or "muon" (see ``training.muon``).
        lr: Learning rate for ``lr_batch`` images a step; it grows in proportion to the images of a step, over
            all processes and accumulated batches.
        lr_batch: 0: ``lr`` whatever the batch.
        matrix_factor: Of muon: the learning rate of matrices as a multiple of ``lr``.
        momentum: Of sgd and of muon's matrices; adamw's first coefficient (its second is 0.999).
        weight_decay: On every parameter of backbone and head, as in the published training; muon's spares
            vectors.
        clip_norm: Largest norm of the backbone's gradient; the head's is not clipped. 0: no limit.
        accumulate: Batches whose gradients make one step.
        ema_decay: Decay of the running average of the weights; 0: none is kept.
    """

    kind: Literal["sgd", "adamw", "muon"] = "sgd"
    lr: float = limited(0.1, 0, above=True)
    lr_batch: int = limited(512, 0)
    matrix_factor: float = limited(8.0, 0, above=True)
    momentum: float = limited(0.9, 0, 0.9999)
    weight_decay: float = limited(5e-4, 0)
    clip_norm: float = limited(5.0, 0)
    accumulate: int = limited(1, 1)
    ema_decay: float = limited(0.0, 0, 0.999999)


@dataclass(frozen=True)
class ScheduleRecipe:
    """How long, and the learning rate on the way; see ``training.schedule``.

    Attributes:
        epochs: Passes over the data.
        kind: "steps" or "cosine".
        milestones: For "steps": the epochs, counted from 1, before which the rate is multiplied by
            ``factor``.
        factor: For "steps".
        warmup_epochs: Epochs (parts count) in which the rate rises from 0.
        final_lr: For "cosine": the rate at the end, as a part of the initial one.
    """

    epochs: int = limited(26, 1)
    kind: Literal["steps", "cosine"] = "steps"
    milestones: tuple[int, ...] = (8, 14, 20, 25)
    factor: float = limited(0.1, 0, 1, above=True)
    warmup_epochs: float = limited(0.0, 0)
    final_lr: float = limited(0.0, 0, 1)


@dataclass(frozen=True)
class DistillationRecipe:
    """The teacher and what is asked of its pupil; see ``training.teacher``.

    Attributes:
        teacher: A weight file, a TorchScript or ONNX file, a training run's folder, or the name of a network
            whose weights ship with the package. Required by the objectives "margin_kd" and "features".
        teacher_model: The architecture of a weight file that does not name it.
        teacher_mean: Of an ONNX file, and of a TorchScript file that does not say itself: what is subtracted
            from its pixels on the scale 0..1.
        teacher_std: By what they are divided then.
        teacher_color: Its channel order.
        teacher_precision: Of a PocketNet or a MobileFaceNet, which embed on the fused kernels of the CPU
            unless maps are compared; others follow ``run.precision``.
        match: How longer embeddings of a teacher are compared with the pupil's: "pca": after an uncentred
            principal component analysis on the transfer set (``training.projection``); "linear": with those
            that a matrix, learned beside the pupil and dropped after it, makes of the pupil's; "relational":
            by the cosines between the images of a batch; "equal": not at all; "auto": by "pca" where they are
            longer. "linear" and "relational" are for "features", and compare embeddings of equal length, too.
        multi_step: Epoch e is taught by the teacher as it was after its own epoch e.
        weight: "margin_kd": factor of the mean squared difference of the L2-normalised embeddings.
        unit_weight: "features": factor of the same term; with ``match`` "relational", of the mean squared
            difference of cosines.
        feature_weight: "features": factor of the mean squared difference of the embeddings themselves.
        maps: "features": heights of the feature maps that are regressed, too; see ``training.maps``.
        map_weight: "features": factor of each one's difference; 0: none is.
        tail_weight: "features": factor of that of the map before the global depthwise convolution.
        copy_tail: Start the layers after that map from the teacher's.
        fit_tail: Start the layers after the global depthwise convolution by a linear regression of the
            teacher's embeddings (``training.embedding_fit``).
        mixup: "features": probability that an image is blended with another one, for pupil and teacher alike.
        cutmix: "features": probability that a part of another one is pasted in.
    """

    teacher: str | None = None
    teacher_model: str | None = None
    teacher_mean: float = 0.5
    teacher_std: float = limited(0.5, 0, above=True)
    teacher_color: Literal["rgb", "bgr"] = "rgb"
    teacher_precision: Literal["fp32", "bf16"] = "fp32"
    match: Literal["auto", "equal", "pca", "linear", "relational"] = "auto"
    multi_step: bool = False
    weight: float = limited(100.0, 0)
    unit_weight: float = limited(100.0, 0)
    feature_weight: float = limited(0.0, 0)
    maps: tuple[str, ...] = ("28", "14", "7")
    map_weight: float = limited(0.0, 0)
    tail_weight: float = limited(0.0, 0)
    copy_tail: bool = False
    fit_tail: bool = False
    mixup: float = limited(0.0, 0, 1)
    cutmix: float = limited(0.0, 0, 1)

    @property
    def compares_whole_embeddings(self) -> bool:
        """Whether the teacher's embeddings are compared at their own length, whatever the pupil's is."""
        return self.match in ("linear", "relational")


@dataclass(frozen=True)
class VerificationRecipe:
    """Tests on pairs of faces along the way.

    Attributes:
        bins: Verification pairs: ``.bin`` or ``.npz`` files, or folders.
        synthetic_identities: Unseen synthetic identities to verify; 0: none.
        synthetic_images: Images of each.
        pairs: Synthetic pairs, half of them of one identity.
        folds: Of the protocol.
        every_epochs: Also after the last epoch; 0: only then.
        every_steps: 0: only after epochs.
    """

    bins: tuple[str, ...] = ()
    synthetic_identities: int = limited(0, 0)
    synthetic_images: int = limited(8, 2)
    pairs: int = limited(1000, 2)
    folds: int = limited(10, 2)
    every_epochs: int = limited(1, 0)
    every_steps: int = limited(0, 0)


@dataclass(frozen=True)
class RunRecipe:
    """The run itself.

    Attributes:
        seed: Of weights, order, augmentation: of everything random.
        device: "cpu", "cuda", or "auto": CUDA where there is one.
        precision: Of the passes of network and teacher; on the CPU, of the margin softmax's products, too.
        threads: PyTorch's threads per process; default: its own choice.
        sync_bn: Batch statistics over all processes. The published training has them per process.
        save_steps: Steps between saves within an epoch; 0: only at its end.
        keep: Complete checkpoints kept, from each of which the run can be resumed.
        keep_epochs: Keep the backbone's weights of every epoch, as multi-step distillation needs them.
        log_steps: Steps between lines of the log.
        max_skipped: Steps in a row without finite loss and gradient after which the run stops.
        tensorboard: Write TensorBoard's files; "auto": if it is installed.
    """

    seed: int = limited(0, 0, 2**31 - 1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    threads: int | None = limited(None, 1)
    sync_bn: bool = False
    save_steps: int = limited(1000, 0)
    keep: int = limited(2, 1)
    keep_epochs: bool = True
    log_steps: int = limited(10, 1)
    max_skipped: int = limited(10, 1)
    tensorboard: Literal["auto"] | bool = "auto"


@dataclass(frozen=True)
class Recipe(TomlRecipe):
    """A training run's settings; ``from_toml`` and ``load_recipe`` check every value.

    Attributes are the sections, of which the TOML text has one table each.
    """

    model: ModelRecipe = ModelRecipe()
    data: DataRecipe = DataRecipe()
    loss: LossRecipe = LossRecipe()
    optimizer: OptimizerRecipe = OptimizerRecipe()
    schedule: ScheduleRecipe = ScheduleRecipe()
    distillation: DistillationRecipe = DistillationRecipe()
    verification: VerificationRecipe = VerificationRecipe()
    run: RunRecipe = RunRecipe()

    def __post_init__(self) -> None:
        schedule = self.schedule
        if (
            list(schedule.milestones) != sorted(set(schedule.milestones))
            or min(schedule.milestones, default=1) < 1
        ):
            raise PocketNetError(
                f"schedule.milestones must be ascending epochs from 1, got {[*schedule.milestones]}"
            )
        if schedule.warmup_epochs > schedule.epochs:
            raise PocketNetError(
                f"schedule.warmup_epochs is {schedule.warmup_epochs:g}, of {schedule.epochs} epochs in all"
            )
        if len(self.loss.margins) != 3:
            raise PocketNetError(f"loss.margins must be three numbers m1, m2, m3, got {[*self.loss.margins]}")
        self._check_distillation()

    def check_complete(self) -> None:
        """Raise unless what only the user can know is there: the data, and a teacher where one is needed.

        Raises:
            PocketNetError: Naming the missing value.
        """
        if self.data.source is None:
            raise PocketNetError(
                "no training data: pass --data with a .rec file, a folder of identities, or synthetic:..."
            )
        if self.loss.objective != "margin" and self.distillation.teacher is None:
            kind = (
                "the teacher run's folder"
                if self.distillation.multi_step
                else "a weight file, a run's folder"
            )
            raise PocketNetError(
                f"the objective {self.loss.objective!r} needs a teacher: pass --teacher with {kind}"
                + ("" if self.distillation.multi_step else " or a TorchScript file")
            )

    def _check_distillation(self) -> None:
        distillation = self.distillation
        if self.loss.objective == "features" and distillation.unit_weight + distillation.feature_weight == 0:
            raise PocketNetError(
                "the objective 'features' needs a positive distillation.unit_weight or feature_weight"
            )
        if self.loss.objective == "margin" and distillation.teacher is not None:
            raise PocketNetError(
                "distillation.teacher is given, but the objective 'margin' has no use for a teacher; "
                "set loss.objective to 'margin_kd' or 'features'"
            )
        if self.loss.objective != "features" and distillation.mixup + distillation.cutmix > 0:
            raise PocketNetError(
                "distillation.mixup and cutmix need loss.objective 'features': a mixed face has no label"
            )
        if self.loss.objective != "features" and distillation.map_weight + distillation.tail_weight > 0:
            raise PocketNetError("distillation.map_weight and tail_weight need loss.objective 'features'")
        if distillation.map_weight > 0 and not distillation.maps:
            raise PocketNetError("distillation.map_weight is given, but distillation.maps is empty")
        if "tail" in distillation.maps or len(set(distillation.maps)) != len(distillation.maps):
            raise PocketNetError(
                f"distillation.maps must be different heights, got {[*distillation.maps]}; the map before "
                "the global depthwise convolution has its own tail_weight"
            )
        if distillation.copy_tail and self.model.weights is not None:
            raise PocketNetError("distillation.copy_tail would replace a part of model.weights; choose one")
        if distillation.mixup + distillation.cutmix > 1:
            raise PocketNetError("distillation.mixup and cutmix are probabilities with a sum of at most 1")
        self._check_match()

    def _check_match(self) -> None:
        distillation = self.distillation
        if distillation.compares_whole_embeddings:
            if self.loss.objective != "features":
                raise PocketNetError(
                    f"distillation.match {distillation.match!r} needs loss.objective 'features'"
                )
            if distillation.multi_step:
                raise PocketNetError(
                    f"distillation.match {distillation.match!r} and multi_step: choose one, for what is "
                    "matched would change with every epoch"
                )
        if distillation.match == "relational" and distillation.feature_weight > 0:
            raise PocketNetError(
                "distillation.feature_weight compares embeddings one by one, and match 'relational' does not"
            )


def list_recipes() -> dict[str, str]:
    """The recipes of the package and what each says of itself (the comment at its head)."""
    return described_recipes(_RECIPES)


def load_recipe(name: str | os.PathLike[str], overrides: Mapping[str, str] | None = None) -> Recipe:
    """Read a recipe of the package by name, or a TOML file.

    Args:
        name: One of ``list_recipes()``, or the path of a ``.toml`` file.
        overrides: As in ``Recipe.from_toml``.

    Raises:
        PocketNetError: If there is no such recipe (with the closest ones), and as ``Recipe.from_toml``.
    """
    return Recipe.from_toml(recipe_text(name, _RECIPES), os.fspath(name), overrides)
