"""Recipes of a search, as TOML with one table per section; see ``training.recipe``.

The defaults are the published ones (PocketNet, arXiv 2108.10710, section III; DARTS, arXiv 1806.09055,
appendix A.1), except where a recipe file says otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.training.recipe import ScheduleRecipe
from pocketnet_fast.training.recipe_values import limited
from pocketnet_fast.training.toml_recipe import TomlRecipe, described_recipes, recipe_text

_RECIPES: Final = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class NetworkSection:
    """The network that is searched in; see ``SearchNetwork``.

    Attributes:
        channels: Width of the first cells.
        layers: Number of cells.
        nodes: Nodes of a cell.
        stem_multiplier: The stem has this many times ``channels``.
        fused: Whether the cells train on fused kernels.
    """

    channels: int = limited(16, 1)
    layers: int = limited(8, 4)
    nodes: int = limited(4, 1)
    stem_multiplier: int = limited(3, 1)
    fused: Literal["auto"] | bool = "auto"


@dataclass(frozen=True)
class DataSection:
    """The images, of which one half trains the weights and the other the alphas.

    Attributes:
        source: What ``data.open_dataset`` takes; required to search.
        batch_size: Images of one process and each half in one step.
        workers: Processes that decode, for each half.
        flip: Probability that an image is mirrored; this and the next are ``data.augment.Augmentation``'s.
        crop: Probability of a random crop.
        cutout: Probability of a hidden rectangle.
    """

    source: str | None = None
    batch_size: int = limited(128, 1)
    workers: int = limited(2, 0)
    flip: float = limited(0.5, 0, 1)
    crop: float = limited(0.0, 0, 1)
    cutout: float = limited(0.0, 0, 1)


@dataclass(frozen=True)
class WeightsSection:
    """How the weights follow the gradient of the training loss: SGD, its rate half a cosine.

    Attributes:
        epochs: Passes over the halves.
        lr: At the start.
        final_lr: At the end.
        momentum: Of SGD.
        weight_decay: On every weight.
        clip_norm: Largest norm of the gradient; 0: no limit.
    """

    epochs: int = limited(50, 1)
    lr: float = limited(0.1, 0, above=True)
    final_lr: float = limited(0.004, 0)
    momentum: float = limited(0.9, 0, 0.9999)
    weight_decay: float = limited(3e-4, 0)
    clip_norm: float = limited(5.0, 0)


@dataclass(frozen=True)
class ArchitectureSection:
    """How the alphas follow the gradient of the validation loss: Adam.

    Attributes:
        order: Of the gradient, see ``architecture_gradient``.
        hessian: How the second order is computed.
        lr: Constant.
        beta1: Adam's first coefficient.
        beta2: Its second.
        weight_decay: Added to the gradient.
        begin_epoch: The first epoch, from 1, in which the alphas are trained.
        latency_weight: What a millisecond of expected latency counts beside the loss; 0: nothing.
        latency_table: A file of ``pocketnet bench --table``; needed if latency counts.
    """

    order: int = limited(2, 1, 2)
    hessian: Literal["double", "published", "exact"] = "published"
    lr: float = limited(1.2e-3, 0, above=True)
    beta1: float = limited(0.5, 0, 0.9999)
    beta2: float = limited(0.999, 0, 0.999999)
    weight_decay: float = limited(1e-3, 0)
    begin_epoch: int = limited(1, 1)
    latency_weight: float = limited(0.0, 0)
    latency_table: str | None = None


@dataclass(frozen=True)
class WatchSection:
    """Known failures of the search and when it ends early because of them.

    Attributes:
        stop_skip_share: End when a derived cell has a larger share of skip connections; 1: never.
        eigenvalue_epochs: Epochs between estimates of the dominant eigenvalue of the validation loss's
            Hessian in the alphas; 0: none is made.
        eigenvalue_steps: Steps of the power iteration, of two passes each.
        stop_eigenvalue_ratio: End when the eigenvalue has grown by more than this factor over
            ``eigenvalue_gap`` estimates; 0: never. 1 / 0.75 is proposed (arXiv 1909.09656, section 4.3).
        eigenvalue_gap: Estimates between those that are compared.
    """

    stop_skip_share: float = limited(1.0, 0, 1, above=True)
    eigenvalue_epochs: int = limited(0, 0)
    eigenvalue_steps: int = limited(8, 1)
    stop_eigenvalue_ratio: float = limited(0.0, 0)
    eigenvalue_gap: int = limited(4, 1)


@dataclass(frozen=True)
class RunSection:
    """The run itself; see ``training.recipe.RunRecipe``.

    Attributes:
        seed: Of weights, halves, order, augmentation: of everything random.
        device: "cpu", "cuda", or "auto": CUDA where there is one.
        precision: Of the passes that train the weights. The gradient of the alphas is a difference of two
            gradients, which is computed in float32, and so is validation.
        threads: PyTorch's threads per process; default: its own choice.
        save_steps: Steps between saves within an epoch; 0: only at its end.
        keep: Complete checkpoints kept; the best network is kept besides.
        log_steps: Steps between lines of the log.
        max_skipped: Steps in a row without finite loss and gradient after which the run stops.
        drawings: Draw genotypes and alphas after each epoch.
        tensorboard: Write TensorBoard's files; "auto": if it is installed.
    """

    seed: int = limited(0, 0, 2**31 - 1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    threads: int | None = limited(None, 1)
    save_steps: int = limited(500, 0)
    keep: int = limited(2, 1)
    log_steps: int = limited(10, 1)
    max_skipped: int = limited(10, 1)
    drawings: Literal["auto"] | bool = "auto"
    tensorboard: Literal["auto"] | bool = "auto"


@dataclass(frozen=True)
class SearchRecipe(TomlRecipe):
    """A search's settings; ``from_toml`` and ``load_search_recipe`` check every value."""

    network: NetworkSection = NetworkSection()
    data: DataSection = DataSection()
    weights: WeightsSection = WeightsSection()
    architecture: ArchitectureSection = ArchitectureSection()
    watch: WatchSection = WatchSection()
    run: RunSection = RunSection()

    def __post_init__(self) -> None:
        weights, architecture = self.weights, self.architecture
        if weights.final_lr > weights.lr:
            raise PocketNetError(f"weights.final_lr is {weights.final_lr:g}, above weights.lr {weights.lr:g}")
        if architecture.latency_weight > 0 and architecture.latency_table is None:
            raise PocketNetError(
                "architecture.latency_weight needs architecture.latency_table, a file of "
                "`pocketnet bench --table`"
            )
        if self.watch.stop_eigenvalue_ratio > 0 and self.watch.eigenvalue_epochs == 0:
            raise PocketNetError("watch.stop_eigenvalue_ratio needs watch.eigenvalue_epochs")

    @property
    def schedule(self) -> ScheduleRecipe:
        """The weights' learning rate as the schedule of a training run."""
        weights = self.weights
        return ScheduleRecipe(
            epochs=weights.epochs, kind="cosine", milestones=(), final_lr=weights.final_lr / weights.lr
        )

    def check_complete(self) -> None:
        """Raise unless the data, which only the user can know, are there.

        Raises:
            PocketNetError: If they are not.
        """
        if self.data.source is None:
            raise PocketNetError(
                "no data: pass --data with a .rec file, a folder of identities, a CIFAR-10 archive, or "
                "synthetic:..."
            )


def list_search_recipes() -> dict[str, str]:
    """The recipes of the package and what each says of itself (the comment at its head)."""
    return described_recipes(_RECIPES)


def load_search_recipe(
    name: str | os.PathLike[str], overrides: Mapping[str, str] | None = None
) -> SearchRecipe:
    """Read a recipe of the package by name, or a TOML file.

    Args:
        name: One of ``list_search_recipes()``, or the path of a ``.toml`` file.
        overrides: As in ``TomlRecipe.from_toml``.

    Raises:
        PocketNetError: If there is no such recipe (with the closest ones), and as ``from_toml``.
    """
    return SearchRecipe.from_toml(recipe_text(name, _RECIPES), os.fspath(name), overrides)
