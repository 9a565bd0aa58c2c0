"""``pocketnet train``: a network from a recipe."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pocketnet_fast.cli.option_groups import grouped
from pocketnet_fast.cli.training import Recipes, RunCommand, RunOptions

if TYPE_CHECKING:
    from pocketnet_fast.training.recipe import Recipe
    from pocketnet_fast.training.trainer import Outcome


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(RunOptions):
    """A training run, and values of its recipe."""

    data: Annotated[
        str | None,
        typer.Option(
            help="A .rec file, a folder with train.rec or of identities, or "
            "synthetic:identities=64,images=20."
        ),
    ] = None
    teacher: Annotated[
        str | None, typer.Option(help="A weight file, a TorchScript or ONNX file, or a run's folder.")
    ] = None
    lr: Annotated[float | None, typer.Option(help="Learning rate for optimizer.lr_batch images a step.")] = (
        None
    )
    verify: Annotated[
        list[str] | None,
        typer.Option(help="Verification pairs, .bin, .npz or a folder; may be given several times."),
    ] = None

    def training_values(self) -> dict[str, object]:
        """What is given of these, by ``section.key`` of the recipe."""
        return {
            "data.source": self.data,
            "distillation.teacher": self.teacher,
            "schedule.epochs": self.epochs,
            "optimizer.lr": self.lr,
            "verification.bins": json.dumps(self.verify) if self.verify else None,
        }


_RecipeName = Annotated[
    str | None, typer.Argument(help="A recipe of --list or a .toml file; with --resume, the run's own.")
]


@grouped
def train(
    recipe: _RecipeName = None,
    *,
    genotype: Annotated[
        str | None,
        typer.Option(
            help="Train a PocketNet of this genotype: a file of `pocketnet search`, a published one's name, "
            "or its text. The recipe is then pocketnet_s128_arcface unless another is named."
        ),
    ] = None,
    channels: Annotated[int | None, typer.Option(help="Width of a PocketNet's first cells.")] = None,
    layers: Annotated[int | None, typer.Option(help="Number of a PocketNet's cells.")] = None,
    options: TrainingOptions,
) -> None:
    """Train a network by a recipe.

    The folder given by --out gets the resolved recipe, a log (log.jsonl), and checkpoints with the weights as
    STEPbackbone.safetensors. Ctrl-C ends the step, saves, and says how to go on. Several processes:
    torchrun --nproc-per-node 2 --no-python pocketnet train ...

    Example: [bold]pocketnet train synthetic_tiny --out runs/tiny[/bold]
    """
    if recipe is None and genotype is not None and not options.resume:
        recipe = "pocketnet_s128_arcface"
    TrainCommand()(recipe, options, _network(genotype, channels, layers) | options.training_values())


class TrainCommand(RunCommand["Recipe", "Outcome"]):
    """Trains a network by a recipe."""

    name = "train"

    def recipes(self) -> Recipes[Recipe]:
        """Those of training."""
        from pocketnet_fast.training.checkpoint import RunFolder
        from pocketnet_fast.training.recipe import list_recipes, load_recipe

        return Recipes(list_recipes, load_recipe, RunFolder)

    def runner(self) -> Callable[..., Outcome]:
        """What trains."""
        from pocketnet_fast.training.trainer import train as run_training

        return run_training

    def fields(self, outcome: Outcome) -> dict[str, Any]:
        """What JSON says of the outcome."""
        return {**asdict(outcome), "weights": str(outcome.weights)}

    def said(self, outcome: Outcome) -> str:
        """What is printed of an outcome that no signal cut short."""
        return f"{outcome.weights}: the weights after {outcome.epoch} epochs, {outcome.step:,} steps"


def _network(genotype: str | None, channels: int | None, layers: int | None) -> dict[str, object]:
    """The options as values of a recipe; the genotype as text, so that a run does not depend on its file."""
    from pocketnet_fast.models.genotypes import format_genotype, genotype_from_name

    given = {"model.channels": channels, "model.layers": layers}
    values: dict[str, object] = {key: value for key, value in given.items() if value is not None}
    if genotype is not None or values:
        values["model.name"] = "pocketnet"
    if genotype is not None:
        values["model.genotype"] = format_genotype(genotype_from_name(genotype))
    return values


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("train")(train)
