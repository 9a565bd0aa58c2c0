"""``pocketnet search``: a genotype from a recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pocketnet_fast.cli.option_groups import grouped
from pocketnet_fast.cli.training import Recipes, RunCommand, RunOptions

if TYPE_CHECKING:
    from pocketnet_fast.search.recipe import SearchRecipe
    from pocketnet_fast.search.searcher import SearchOutcome


@grouped
def search(
    recipe: Annotated[
        str | None, typer.Option(help="One of --list or a .toml file; with --resume, the search's own.")
    ] = None,
    *,
    data: Annotated[
        str | None,
        typer.Option(
            help="A .rec file, a folder with train.rec or of identities, a CIFAR-10 archive, or "
            "synthetic:identities=24,images=16."
        ),
    ] = None,
    order: Annotated[int | None, typer.Option(help="Of the alphas' gradient, 1 or 2.")] = None,
    latency_weight: Annotated[
        float | None, typer.Option(help="What a millisecond of expected latency counts beside the loss.")
    ] = None,
    latency_table: Annotated[
        Path | None, typer.Option(help="This machine's times, of `pocketnet bench --table`.")
    ] = None,
    options: RunOptions,
) -> None:
    """Search an architecture by a recipe (DARTS).

    The folder given by --out gets the resolved recipe, a log (log.jsonl), checkpoints, and the genotype of
    the best epoch by validation as genotype.json, for `pocketnet train --genotype`; that of each epoch,
    drawn, lies in epochs/. Ctrl-C ends the step, saves, and says how to go on. Several processes:
    torchrun --nproc-per-node 2 --no-python pocketnet search ...

    Example: [bold]pocketnet search --recipe synthetic_tiny --out runs/search[/bold]
    """
    given = {
        "data.source": data,
        "weights.epochs": options.epochs,
        "architecture.order": order,
        "architecture.latency_weight": latency_weight,
        "architecture.latency_table": latency_table,
    }
    _Search()(recipe, options, given)


class _Search(RunCommand["SearchRecipe", "SearchOutcome"]):
    name, recipe_word = "search", "--recipe"

    def recipes(self) -> Recipes[SearchRecipe]:
        from pocketnet_fast.search.checkpoint import SearchFolder
        from pocketnet_fast.search.recipe import list_search_recipes, load_search_recipe

        return Recipes(list_search_recipes, load_search_recipe, SearchFolder)

    def runner(self) -> Callable[..., SearchOutcome]:
        from pocketnet_fast.search.searcher import search as run_search

        return run_search

    def fields(self, outcome: SearchOutcome) -> dict[str, Any]:
        genotype, file = outcome.genotype, outcome.genotype_file
        return {
            **asdict(outcome),
            "genotype": None if genotype is None else str(genotype),
            "genotype_file": None if file is None else str(file),
        }

    def said(self, outcome: SearchOutcome) -> str:
        if outcome.genotype is None:
            return ""
        return (
            f"{outcome.genotype}\n{outcome.genotype_file}: the genotype after epoch {outcome.best_epoch}, "
            f"validation accuracy {100 * outcome.best_accuracy:.2f} %; train it: "
            f"pocketnet train --genotype {outcome.genotype_file} --channels 16 --layers 18 --data ..."
        )


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("search")(search)
