"""Recipes: all that determines a training run, as TOML with one table per section.

A recipe file names only what differs from the defaults below, which are the published ones (PocketNet, arXiv
2108.10710, section IV). The resolved recipe, every value written out, is saved with its run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.training.recipe_values import Auto, limited
from pocketnet_fast.training.toml_recipe import TomlRecipe, described_recipes, recipe_text

_RECIPES: Final = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class ModelRecipe:
    """The network that is trained."""

    name: Annotated[str, "The network's name, as in `create_model`."] = "pocketnet_s128"
    embedding_dim: Annotated[
        int | None,
        "Length of the embedding; default: the architecture's own.",
    ] = limited(None, 1)
    genotype: Annotated[
        str | None,
        "Of `pocketnet`: a published genotype's name or the text form of one.",
    ] = None
    channels: Annotated[int | None, "Of `pocketnet`: width of the first cells."] = limited(None, 1)
    layers: Annotated[int | None, "Of `pocketnet`: number of cells."] = limited(None, 4)
    weights: Annotated[str | None, "Weight file to start from; default: random weights."] = None
    fused: Annotated[
        Auto,
        "Whether the blocks train on fused kernels, for models that have them; `auto`: where those can run.",
    ] = "auto"


@dataclass(frozen=True)
class DataRecipe:
    """The images, how they are batched, and how they are varied."""

    source: Annotated[
        str | None,
        "A .rec file, a folder with train.rec or of folders of one person each, a table of several, or "
        "`synthetic:identities=64,images=20`; required to train.",
    ] = None
    batch_size: Annotated[int, "Images of one process in one forward pass."] = limited(128, 1)
    workers: Annotated[
        int,
        "Processes that decode, per training process, but no more than there are processors; 0: the "
        "training process itself. Their number changes nothing else.",
    ] = limited(4, 0)
    flip: Annotated[float, "Probability that an image is mirrored."] = limited(0.5, 0, 1)
    turn: Annotated[float, "Probability that the face is seen from another side."] = limited(0.0, 0, 1)
    crop: Annotated[float, "Probability of a random crop."] = limited(0.0, 0, 1)
    color: Annotated[
        float,
        "Probability of changed brightness, contrast, saturation and hue.",
    ] = limited(0.0, 0, 1)
    blur: Annotated[float, "Probability of blur or compression."] = limited(0.0, 0, 1)
    cutout: Annotated[float, "Probability of a hidden rectangle."] = limited(0.0, 0, 1)


@dataclass(frozen=True)
class LossRecipe:
    """What is minimised."""

    objective: Annotated[
        Literal["margin", "margin_kd", "features"],
        "`margin`: the margin softmax alone; `margin_kd`: beside the distillation term; `features`: "
        "regression of the teacher's embeddings alone, for which labels do not matter.",
    ] = "margin"
    scale: Annotated[float, "s, the factor of the cosines."] = limited(64.0, 0, above=True)
    margins: Annotated[tuple[float, ...], "(m1, m2, m3) of cos(m1 * theta + m2) - m3."] = (1.0, 0.5, 0.0)
    easy_margin: Annotated[bool, "Apply margins only where the label's cosine is positive."] = False
    sample_rate: Annotated[
        float,
        "Part of the classes that a step's softmax takes (Partial FC).",
    ] = limited(1.0, 0, 1, above=True)


@dataclass(frozen=True)
class OptimizerRecipe:
    """How weights follow gradients."""

    kind: Annotated[
        Literal["sgd", "adamw", "muon"],
        "`sgd` with momentum, `adamw`, or `muon` (see `training.muon`).",
    ] = "sgd"
    lr: Annotated[
        float,
        "Learning rate for `lr_batch` images a step; it grows in proportion to the images of a step, over "
        "all processes and accumulated batches.",
    ] = limited(0.1, 0, above=True)
    lr_batch: Annotated[
        int,
        "Images a step that `lr` is meant for; 0: `lr` whatever the batch.",
    ] = limited(512, 0)
    matrix_factor: Annotated[
        float,
        "Of muon: the learning rate of matrices as a multiple of `lr`.",
    ] = limited(8.0, 0, above=True)
    momentum: Annotated[
        float,
        "Of sgd and of muon's matrices; adamw's first coefficient (its second is 0.999).",
    ] = limited(0.9, 0, 0.9999)
    weight_decay: Annotated[
        float,
        "On every parameter of backbone and head, as in the published training; muon's spares vectors.",
    ] = limited(5e-4, 0)
    clip_norm: Annotated[
        float,
        "Largest norm of the backbone's gradient; the head's is not clipped. 0: no limit.",
    ] = limited(5.0, 0)
    accumulate: Annotated[int, "Batches whose gradients make one step."] = limited(1, 1)
    ema_decay: Annotated[
        float,
        "Decay of the running average of the weights; 0: none is kept.",
    ] = limited(0.0, 0, 0.999999)


@dataclass(frozen=True)
class ScheduleRecipe:
    """How long, and the learning rate on the way; see ``training.schedule``."""

    epochs: Annotated[int, "Passes over the data."] = limited(26, 1)
    kind: Annotated[
        Literal["steps", "cosine"],
        "`steps`: multiplied by `factor` at `milestones`; `cosine`: half a cosine down to `final_lr`.",
    ] = "steps"
    milestones: Annotated[
        tuple[int, ...],
        "For `steps`: the epochs, counted from 1, before which the rate is multiplied by `factor`.",
    ] = (8, 14, 20, 25)
    factor: Annotated[float, "For `steps`: what the rate is multiplied by."] = limited(0.1, 0, 1, above=True)
    warmup_epochs: Annotated[float, "Epochs (parts count) in which the rate rises from 0."] = limited(0.0, 0)
    final_lr: Annotated[
        float,
        "For `cosine`: the rate at the end, as a part of the initial one.",
    ] = limited(0.0, 0, 1)


@dataclass(frozen=True)
class DistillationRecipe:
    """The teacher and what is asked of its pupil; see ``training.teacher``."""

    teacher: Annotated[
        str | None,
        "A weight file, a TorchScript or ONNX file, a training run's folder, or the name of a network whose "
        "weights ship with the package. Required by the objectives `margin_kd` and `features`.",
    ] = None
    teacher_model: Annotated[str | None, "The architecture of a weight file that does not name it."] = None
    teacher_mean: Annotated[
        float,
        "Of an ONNX file, and of a TorchScript file that does not say itself: what is subtracted from its "
        "pixels on the scale 0..1.",
    ] = 0.5
    teacher_std: Annotated[float, "Of the same: by what they are divided then."] = limited(0.5, 0, above=True)
    teacher_color: Annotated[Literal["rgb", "bgr"], "Of the same: its channel order."] = "rgb"
    teacher_precision: Annotated[
        Literal["fp32", "bf16"],
        "Of a PocketNet or a MobileFaceNet, which embed on the fused kernels of the CPU unless maps are "
        "compared; others follow `run.precision`.",
    ] = "fp32"
    match: Annotated[
        Literal["auto", "equal", "pca", "linear", "relational"],
        "How longer embeddings of a teacher are compared with the pupil's: `pca`: after an uncentred "
        "principal component analysis on the transfer set (`training.projection`); `linear`: with those "
        "that a matrix, learned beside the pupil and dropped after it, makes of the pupil's; `relational`: "
        "by the cosines between the images of a batch; `equal`: not at all; `auto`: by `pca` where they are "
        "longer. `linear` and `relational` are for `features`, and compare embeddings of equal length, too.",
    ] = "auto"
    multi_step: Annotated[bool, "Epoch e is taught by the teacher as it was after its own epoch e."] = False
    weight: Annotated[
        float,
        "`margin_kd`: factor of the mean squared difference of the L2-normalised embeddings.",
    ] = limited(100.0, 0)
    unit_weight: Annotated[
        float,
        "`features`: factor of the same term; with `match` `relational`, of the mean squared difference of "
        "cosines.",
    ] = limited(100.0, 0)
    feature_weight: Annotated[
        float,
        "`features`: factor of the mean squared difference of the embeddings themselves.",
    ] = limited(0.0, 0)
    maps: Annotated[
        tuple[str, ...],
        "`features`: heights of the feature maps that are regressed, too; see `training.maps`.",
    ] = ("28", "14", "7")
    map_weight: Annotated[float, "`features`: factor of each one's difference; 0: none is."] = limited(0.0, 0)
    tail_weight: Annotated[
        float,
        "`features`: factor of that of the map before the global depthwise convolution.",
    ] = limited(0.0, 0)
    copy_tail: Annotated[bool, "Start the layers after that map from the teacher's."] = False
    fit_tail: Annotated[
        bool,
        "Start the layers after the global depthwise convolution by a linear regression of the teacher's "
        "embeddings (`training.embedding_fit`).",
    ] = False
    mixup: Annotated[
        float,
        "`features`: probability that an image is blended with another one, for pupil and teacher alike.",
    ] = limited(0.0, 0, 1)
    cutmix: Annotated[
        float,
        "`features`: probability that a part of another one is pasted in.",
    ] = limited(0.0, 0, 1)

    @property
    def compares_whole_embeddings(self) -> bool:
        """Whether the teacher's embeddings are compared at their own length, whatever the pupil's is."""
        return self.match in ("linear", "relational")


@dataclass(frozen=True)
class VerificationRecipe:
    """Tests on pairs of faces along the way."""

    bins: Annotated[tuple[str, ...], "Verification pairs: `.bin` or `.npz` files, or folders."] = ()
    synthetic_identities: Annotated[int, "Unseen synthetic identities to verify; 0: none."] = limited(0, 0)
    synthetic_images: Annotated[int, "Images of each synthetic identity."] = limited(8, 2)
    pairs: Annotated[int, "Synthetic pairs, half of them of one identity."] = limited(1000, 2)
    folds: Annotated[int, "Folds of the protocol."] = limited(10, 2)
    every_epochs: Annotated[
        int,
        "Epochs between tests, and after the last one; 0: only then.",
    ] = limited(1, 0)
    every_steps: Annotated[int, "Steps between tests within an epoch; 0: none there."] = limited(0, 0)


@dataclass(frozen=True)
class AnyRun:
    """What a run of training and one of a search state alike."""

    seed: Annotated[
        int,
        "Seed of weights, order, augmentation: of everything random.",
    ] = limited(0, 0, 2**31 - 1)
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        "`cpu`, `cuda`, or `auto`: CUDA where there is one.",
    ] = "auto"
    threads: Annotated[
        int | None,
        "PyTorch's threads per process; default: its own choice.",
    ] = limited(None, 1)
    log_steps: Annotated[int, "Steps between lines of the log."] = limited(10, 1)
    max_skipped: Annotated[
        int,
        "Steps in a row without finite loss and gradient after which the run stops.",
    ] = limited(10, 1)
    tensorboard: Annotated[Auto, "Write TensorBoard's files; `auto`: if it is installed."] = "auto"


@dataclass(frozen=True)
class RunRecipe(AnyRun):
    """The run itself."""

    precision: Annotated[
        Literal["fp32", "bf16"],
        "Precision of the passes of network and teacher; on the CPU, of the margin softmax's products, too.",
    ] = "fp32"
    sync_bn: Annotated[
        bool,
        "Batch statistics over all processes. The published training has them per process.",
    ] = False
    save_steps: Annotated[int, "Steps between saves within an epoch; 0: only at its end."] = limited(1000, 0)
    keep: Annotated[
        int,
        "Complete checkpoints kept, from each of which the run can be resumed.",
    ] = limited(2, 1)
    keep_epochs: Annotated[
        bool,
        "Keep the backbone's weights of every epoch, as multi-step distillation needs them.",
    ] = True


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
