"""What the commands that train share: their options, and how these change a recipe."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pocketnet_fast.cli.output import print_json
from pocketnet_fast.errors import PocketNetError

if TYPE_CHECKING:
    from pocketnet_fast.search.recipe import SearchRecipe
    from pocketnet_fast.training.recipe import Recipe
    from pocketnet_fast.training.trainer import Outcome

OutOption = Annotated[Path | None, typer.Option("--out", help="The run's folder.")]
DataOption = Annotated[
    str | None,
    typer.Option(
        help="A .rec file, a folder with train.rec or of identities, or synthetic:identities=64,images=20."
    ),
]
TeacherOption = Annotated[
    str | None, typer.Option(help="A weight file, a TorchScript file or a training run's folder.")
]
EpochsOption = Annotated[int | None, typer.Option(help="Passes over the data.")]
BatchOption = Annotated[int | None, typer.Option(help="Images of one process in one pass.")]
RateOption = Annotated[float | None, typer.Option(help="Learning rate for optimizer.lr_batch images a step.")]
SeedOption = Annotated[int | None, typer.Option(help="Of everything random.")]
WorkersOption = Annotated[int | None, typer.Option(help="Processes that decode; 0: none.")]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda or auto.")]
VerifyOption = Annotated[
    list[str] | None,
    typer.Option(help="Verification pairs, .bin, .npz or a folder; may be given several times."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any value of the recipe; see --dry-run."),
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Resume although harmless values of the recipe differ.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and end.")]
ListOption = Annotated[bool, typer.Option("--list", help="List the recipes and end.")]


def overrides(
    data: str | None,
    teacher: str | None,
    epochs: int | None,
    batch_size: int | None,
    lr: float | None,
    seed: int | None,
    workers: int | None,
    device: str | None,
    verify: list[str] | None,
    changes: list[str] | None,
) -> dict[str, str]:
    """The options as values of a recipe by ``section.key``; ``--set`` comes last.

    Raises:
        PocketNetError: If a ``--set`` has no ``=``.
    """
    given = {
        "data.source": data,
        "distillation.teacher": teacher,
        "schedule.epochs": epochs,
        "data.batch_size": batch_size,
        "optimizer.lr": lr,
        "run.seed": seed,
        "data.workers": workers,
        "run.device": device,
        "verification.bins": json.dumps(verify) if verify else None,
    }
    values = {key: str(value) for key, value in given.items() if value is not None}
    return values | changed_values(changes)


def changed_values(changes: list[str] | None) -> dict[str, str]:
    """What ``--set`` says, by ``section.key``.

    Raises:
        PocketNetError: If one has no ``=``.
    """
    values = {}
    for change in changes or []:
        key, equals, value = change.partition("=")
        if not equals:
            raise PocketNetError(f"--set {change}: expected SECTION.KEY=VALUE, such as optimizer.lr=0.05")
        values[key.strip()] = value.strip()
    return values


def run(
    recipe: str | None,
    out: Path | None,
    values: dict[str, str],
    resume: bool,
    force: bool,
    dry_run: bool,
    listing: bool,
    as_json: bool,
) -> None:
    """Carry out what the options say; exit with 128 + the signal's number if one ended the run.

    Raises:
        PocketNetError: On bad input.
    """
    from pocketnet_fast.training.checkpoint import RunFolder
    from pocketnet_fast.training.recipe import Recipe, list_recipes, load_recipe

    if listing:
        print_recipes(list_recipes(), as_json)
        return
    if recipe is None and not resume:
        raise PocketNetError(f"no recipe: expected one of {', '.join(list_recipes())}, or a .toml file")
    if out is None and (resume or not dry_run):
        raise PocketNetError("no --out: expected the run's folder")
    if recipe is not None:
        chosen = load_recipe(recipe, values)
    else:
        assert out is not None
        chosen = Recipe.from_toml(RunFolder(out).recipe().to_toml(), str(out), values)
    if dry_run:
        print_recipe(chosen, as_json)
        return
    assert out is not None
    _train(chosen, out, resume, force, as_json)


def print_recipe(recipe: Recipe | SearchRecipe, as_json: bool) -> None:
    """Print a resolved recipe, a table per section, as TOML with the meaning of each value, or as JSON."""
    if as_json:
        print_json(asdict(recipe))
    else:
        from pocketnet_fast.training.recipe_meanings import explained_toml

        typer.echo(explained_toml(recipe), nl=False)


def _train(recipe: Recipe, out: Path, resume: bool, force: bool, as_json: bool) -> None:
    from rich.console import Console

    from pocketnet_fast.training.trainer import train

    with explained_loading(out):
        outcome = train(recipe, out, resume=resume, force=force, console=Console(stderr=True))
    if int(os.environ.get("RANK", "0")) == 0:
        _report(outcome, as_json)
    if outcome.signal:
        raise typer.Exit(128 + outcome.signal)


@contextlib.contextmanager
def explained_loading(out: Path) -> Iterator[None]:
    """Say in one line that a process which loads images has died, and how to go on.

    Raises:
        PocketNetError: If one has.
    """
    try:
        yield
    except RuntimeError as error:
        # torch raises it wherever the main process is when one of its loader's processes dies.
        if not str(error).startswith("DataLoader worker"):
            raise
        reason = str(error).partition("\n")[0].strip()
        raise PocketNetError(
            f"a process that loads images has died (was there enough memory?): {reason} "
            f"The run goes on from its last checkpoint with --resume --out {out}"
        ) from None


def say_stopped(command: str, step: int, out: Path) -> None:
    """Say after which step a signal stopped the run, and how to go on."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    program = "pocketnet" if processes == 1 else "torchrun (as before) -m pocketnet_fast.cli"
    typer.echo(
        f"pocketnet: stopped after step {step:,}; go on with: {program} {command} --resume --out {out}",
        err=True,
    )


def _report(outcome: Outcome, as_json: bool) -> None:
    if outcome.signal:
        say_stopped("train", outcome.step, outcome.folder)
    if as_json:
        content = {**asdict(outcome), "folder": str(outcome.folder), "weights": str(outcome.weights)}
        print_json(content)
    elif not outcome.signal:
        typer.echo(f"{outcome.weights}: the weights after {outcome.epoch} epochs, {outcome.step:,} steps")


def print_recipes(recipes: dict[str, str], as_json: bool) -> None:
    """Print the recipes of the package and what each says of itself."""
    if as_json:
        print_json(recipes)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("recipe", "", box=None, pad_edge=False)
    for name, text in recipes.items():
        table.add_row(name, text)
    Console().print(table)
