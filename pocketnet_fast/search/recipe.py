"""Recipes of a search, as TOML with one table per section; see ``training.recipe``.

The defaults are the published ones (PocketNet, arXiv 2108.10710, section III; DARTS, arXiv 1806.09055,
appendix A.1), except where a recipe file says otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.training.recipe import AnyRun, ScheduleRecipe
from pocketnet_fast.training.recipe_values import Auto, limited
from pocketnet_fast.training.toml_recipe import TomlRecipe, described_recipes, recipe_text

_RECIPES: Final = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class NetworkSection:
    """The network that is searched in; see ``SearchNetwork``."""

    channels: Annotated[int, "Width of the first cells."] = limited(16, 1)
    layers: Annotated[int, "Number of cells."] = limited(8, 4)
    nodes: Annotated[int, "Nodes of a cell."] = limited(4, 1)
    stem_multiplier: Annotated[int, "The stem has this many times `channels`."] = limited(3, 1)
    fused: Annotated[Auto, "Whether the cells train on fused kernels; `auto`: where those can run."] = "auto"


@dataclass(frozen=True)
class DataSection:
    """The images, of which one half trains the weights and the other the alphas."""

    source: Annotated[
        str | None,
        "A .rec file, a folder with train.rec or of folders of one person each, a CIFAR-10 archive, or "
        "`synthetic:identities=24,images=16`; required to search.",
    ] = None
    batch_size: Annotated[int, "Images of one process and each half in one step."] = limited(128, 1)
    workers: Annotated[int, "Processes that decode, for each half."] = limited(2, 0)
    flip: Annotated[float, "Probability that an image is mirrored."] = limited(0.5, 0, 1)
    crop: Annotated[float, "Probability of a random crop."] = limited(0.0, 0, 1)
    cutout: Annotated[float, "Probability of a hidden rectangle."] = limited(0.0, 0, 1)


@dataclass(frozen=True)
class WeightsSection:
    """How the weights follow the gradient of the training loss: SGD, its rate half a cosine."""

    epochs: Annotated[int, "Passes over the halves."] = limited(50, 1)
    lr: Annotated[float, "Learning rate at the start."] = limited(0.1, 0, above=True)
    final_lr: Annotated[float, "Learning rate at the end."] = limited(0.004, 0)
    momentum: Annotated[float, "Momentum of SGD."] = limited(0.9, 0, 0.9999)
    weight_decay: Annotated[float, "Weight decay, on every weight."] = limited(3e-4, 0)
    clip_norm: Annotated[float, "Largest norm of the gradient; 0: no limit."] = limited(5.0, 0)


@dataclass(frozen=True)
class ArchitectureSection:
    """How the alphas follow the gradient of the validation loss: Adam."""

    order: Annotated[int, "Order of the gradient, see `architecture_gradient`."] = limited(2, 1, 2)
    hessian: Annotated[
        Literal["double", "published", "exact"],
        "How the second order is computed: `published`, as a difference in float32; `double`, in float64; "
        "`exact`, by differentiating twice.",
    ] = "published"
    lr: Annotated[float, "Learning rate, which is constant."] = limited(1.2e-3, 0, above=True)
    beta1: Annotated[float, "Adam's first coefficient."] = limited(0.5, 0, 0.9999)
    beta2: Annotated[float, "Adam's second coefficient."] = limited(0.999, 0, 0.999999)
    weight_decay: Annotated[float, "Weight decay, added to the gradient."] = limited(1e-3, 0)
    begin_epoch: Annotated[int, "The first epoch, from 1, in which the alphas are trained."] = limited(1, 1)
    latency_weight: Annotated[
        float,
        "What a millisecond of expected latency counts beside the loss; 0: nothing.",
    ] = limited(0.0, 0)
    latency_table: Annotated[
        str | None,
        "A file of `pocketnet bench --table`; needed if latency counts.",
    ] = None


@dataclass(frozen=True)
class WatchSection:
    """Known failures of the search and when it ends early because of them."""

    stop_skip_share: Annotated[
        float,
        "End when a derived cell has a larger share of skip connections; 1: never.",
    ] = limited(1.0, 0, 1, above=True)
    eigenvalue_epochs: Annotated[
        int,
        "Epochs between estimates of the dominant eigenvalue of the validation loss's Hessian in the "
        "alphas; 0: none is made.",
    ] = limited(0, 0)
    eigenvalue_steps: Annotated[int, "Steps of the power iteration, of two passes each."] = limited(8, 1)
    stop_eigenvalue_ratio: Annotated[
        float,
        "End when the eigenvalue has grown by more than this factor over `eigenvalue_gap` estimates; 0: "
        "never. 1 / 0.75 is proposed (arXiv 1909.09656, section 4.3).",
    ] = limited(0.0, 0)
    eigenvalue_gap: Annotated[int, "Estimates between those that are compared."] = limited(4, 1)


@dataclass(frozen=True)
class RunSection(AnyRun):
    """The run itself."""

    precision: Annotated[
        Literal["fp32", "bf16"],
        "Precision of the passes that train the weights. The gradient of the alphas is a difference of two "
        "gradients, which is computed in float32, and so is validation.",
    ] = "fp32"
    save_steps: Annotated[int, "Steps between saves within an epoch; 0: only at its end."] = limited(500, 0)
    keep: Annotated[int, "Complete checkpoints kept; the best network is kept besides."] = limited(2, 1)
    drawings: Annotated[
        Auto,
        "Draw genotypes and alphas after each epoch; `auto`: if matplotlib is installed.",
    ] = "auto"


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
