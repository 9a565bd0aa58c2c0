"""What the commands that train and search share: their options, and how these change a recipe."""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, Protocol, TypeVar

import typer

from pocketnet_fast.cli.options import JsonOption
from pocketnet_fast.cli.output import print_json
from pocketnet_fast.errors import PocketNetError

if TYPE_CHECKING:
    from pocketnet_fast.resumable.folder import Folder
    from pocketnet_fast.training.toml_recipe import TomlRecipe


class _Outcome(Protocol):
    @property
    def folder(self) -> Path: ...

    @property
    def step(self) -> int: ...

    @property
    def signal(self) -> int: ...


RecipeT = TypeVar("RecipeT", bound="TomlRecipe")
OutcomeT = TypeVar("OutcomeT", bound=_Outcome)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """A run's folder, how it begins, and values of its recipe that every kind of run has."""

    out: Annotated[Path | None, typer.Option("--out", help="The run's folder.")] = None
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.")] = None
    batch_size: Annotated[int | None, typer.Option(help="Images of one process in one pass.")] = None
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None
    workers: Annotated[int | None, typer.Option(help="Processes that decode; 0: none.")] = None
    device: Annotated[str | None, typer.Option(help="cpu, cuda or auto.")] = None
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any value of the recipe; see --dry-run."),
    ] = None
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False
    force: Annotated[
        bool, typer.Option("--force", help="Resume although harmless values of the recipe differ.")
    ] = False
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and end.")] = False
    listing: Annotated[bool, typer.Option("--list", help="List the recipes and end.")] = False
    as_json: JsonOption = False

    def values(self, given: Mapping[str, object]) -> dict[str, str]:
        """Values of a recipe by ``section.key``: a command's own options, those here, and ``--set`` last.

        Args:
            given: The command's own; None where an option was not given.

        Raises:
            PocketNetError: A ``--set`` has no ``=``.
        """
        common = {
            "data.batch_size": self.batch_size,
            "run.seed": self.seed,
            "data.workers": self.workers,
            "run.device": self.device,
        }
        values = {key: str(value) for key, value in {**given, **common}.items() if value is not None}
        return values | _changed_values(self.changes)

    def folder(self) -> Path:
        """The run's folder.

        Raises:
            PocketNetError: None was given.
        """
        if self.out is None:
            raise PocketNetError("no --out: expected the run's folder")
        return self.out


@dataclass(frozen=True)
class Recipes(Generic[RecipeT]):
    """Where a command's recipes come from.

    Attributes:
        listed: The recipes of the package, and what each says of itself.
        load: Reads a recipe of the package or a file, and changes it.
        folder: The folder of a run, with its recipe.
    """

    listed: Callable[[], dict[str, str]]
    load: Callable[[str, Mapping[str, str]], RecipeT]
    folder: Callable[[Path], Folder[RecipeT, Any]]

    def load_from(self, path: Path, values: Mapping[str, str]) -> RecipeT:
        """Read the recipe of a run, and change it."""
        own = self.folder(path).recipe()
        return type(own).from_toml(own.to_toml(), str(path), values)


class RunCommand(ABC, Generic[RecipeT, OutcomeT]):
    """A command that carries out a recipe in a folder, and goes on where it was interrupted.

    Attributes:
        name: The command.
        recipe_word: How messages call its recipe.
    """

    name: str
    recipe_word = "recipe"

    @abstractmethod
    def recipes(self) -> Recipes[RecipeT]:
        """Where its recipes come from."""

    @abstractmethod
    def runner(self) -> Callable[..., OutcomeT]:
        """What carries out a recipe in a folder, as ``training.train`` does."""

    @abstractmethod
    def fields(self, outcome: OutcomeT) -> dict[str, Any]:
        """What JSON says of the outcome."""

    @abstractmethod
    def said(self, outcome: OutcomeT) -> str:
        """What is printed of an outcome that no signal cut short."""

    def __call__(self, recipe: str | None, options: RunOptions, given: Mapping[str, object]) -> None:
        """Carry out what the options say; exit with 128 + the signal's number if one ended the run.

        Args:
            recipe: Its name or file; None with ``--resume`` for the run's own.
            options: Those of every run.
            given: Values of the recipe by ``section.key`` that the command's own options give.

        Raises:
            PocketNetError: Bad input.
        """
        recipes = self.recipes()
        if options.listing:
            _print_recipes(recipes.listed(), options.as_json)
            return
        if recipe is None and not options.resume:
            listed = ", ".join(recipes.listed())
            raise PocketNetError(f"no {self.recipe_word}: expected one of {listed}, or a .toml file")
        if options.resume or not options.dry_run:
            options.folder()
        values = options.values(given)
        if recipe is None:
            chosen = recipes.load_from(options.folder(), values)
        else:
            chosen = recipes.load(recipe, values)
        if options.dry_run:
            _print_recipe(chosen, options.as_json)
            return
        from rich.console import Console

        out, run = options.folder(), self.runner()
        with _explained_loading(out):
            outcome = run(
                chosen, out, resume=options.resume, force=options.force, console=Console(stderr=True)
            )
        if int(os.environ.get("RANK", "0")) == 0:
            self._report(outcome, options.as_json)
        if outcome.signal:
            raise typer.Exit(128 + outcome.signal)

    def _report(self, outcome: OutcomeT, as_json: bool) -> None:
        if outcome.signal:
            _say_stopped(self.name, outcome.step, outcome.folder)
        if as_json:
            print_json({**self.fields(outcome), "folder": str(outcome.folder)})
        elif not outcome.signal and (said := self.said(outcome)):
            typer.echo(said)


def _changed_values(changes: list[str] | None) -> dict[str, str]:
    """What ``--set`` says, by ``section.key``.

    Raises:
        PocketNetError: One has no ``=``.
    """
    values = {}
    for change in changes or []:
        key, equals, value = change.partition("=")
        if not equals:
            raise PocketNetError(f"--set {change}: expected SECTION.KEY=VALUE, such as optimizer.lr=0.05")
        values[key.strip()] = value.strip()
    return values


def _print_recipe(recipe: Any, as_json: bool) -> None:
    """Print a resolved recipe, a table per section, as TOML with the meaning of each value, or as JSON."""
    if as_json:
        print_json(asdict(recipe))
    else:
        from pocketnet_fast.training.recipe_meanings import explained_toml

        typer.echo(explained_toml(recipe), nl=False)


@contextlib.contextmanager
def _explained_loading(out: Path) -> Iterator[None]:
    """Say in one line that a process which loads images has died, and how to go on.

    Raises:
        PocketNetError: One has.
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


def _say_stopped(command: str, step: int, out: Path) -> None:
    """Say after which step a signal stopped the run, and how to go on."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    program = "pocketnet" if processes == 1 else "torchrun (as before) --no-python pocketnet"
    typer.echo(
        f"pocketnet: stopped after step {step:,}; go on with: {program} {command} --resume --out {out}",
        err=True,
    )


def _print_recipes(recipes: dict[str, str], as_json: bool) -> None:
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
