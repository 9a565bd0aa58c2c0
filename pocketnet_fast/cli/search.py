"""``pocketnet search``: a genotype from a recipe."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pocketnet_fast.cli.loading import JsonOption
from pocketnet_fast.cli.output import print_json
from pocketnet_fast.cli.training import (
    BatchOption,
    DeviceOption,
    DryRunOption,
    EpochsOption,
    ForceOption,
    ListOption,
    OutOption,
    ResumeOption,
    SeedOption,
    SetOption,
    WorkersOption,
    changed_values,
    explained_loading,
    print_recipe,
    print_recipes,
    say_stopped,
)
from pocketnet_fast.errors import PocketNetError

if TYPE_CHECKING:
    from pocketnet_fast.search.recipe import SearchRecipe
    from pocketnet_fast.search.searcher import SearchOutcome


def search(
    recipe: Annotated[
        str | None, typer.Option(help="One of --list or a .toml file; with --resume, the search's own.")
    ] = None,
    *,
    out: OutOption = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="A .rec file, a folder with train.rec or of identities, a CIFAR-10 archive, or "
            "synthetic:identities=24,images=16."
        ),
    ] = None,
    epochs: EpochsOption = None,
    batch_size: BatchOption = None,
    seed: SeedOption = None,
    workers: WorkersOption = None,
    device: DeviceOption = None,
    order: Annotated[int | None, typer.Option(help="Of the alphas' gradient, 1 or 2.")] = None,
    latency_weight: Annotated[
        float | None, typer.Option(help="What a millisecond of expected latency counts beside the loss.")
    ] = None,
    latency_table: Annotated[
        Path | None, typer.Option(help="This machine's times, of `pocketnet bench --table`.")
    ] = None,
    changes: SetOption = None,
    resume: ResumeOption = False,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    listing: ListOption = False,
    as_json: JsonOption = False,
) -> None:
    """Search an architecture by a recipe (DARTS).

    The folder given by --out gets the resolved recipe, a log (log.jsonl), checkpoints, and the genotype of
    the best epoch by validation as genotype.json, for `pocketnet train --genotype`; that of each epoch,
    drawn, lies in epochs/. Ctrl-C ends the step, saves, and says how to go on. Several processes:
    torchrun --nproc-per-node 2 -m pocketnet_fast.cli search ...

    Example: [bold]pocketnet search --recipe synthetic_tiny --out runs/search[/bold]
    """
    from pocketnet_fast.search.checkpoint import SearchFolder
    from pocketnet_fast.search.recipe import SearchRecipe, list_search_recipes, load_search_recipe

    if listing:
        print_recipes(list_search_recipes(), as_json)
        return
    if recipe is None and not resume:
        raise PocketNetError(
            f"no --recipe: expected one of {', '.join(list_search_recipes())}, or a .toml file"
        )
    if out is None and (resume or not dry_run):
        raise PocketNetError("no --out: expected the search's folder")
    given = {
        "data.source": data,
        "weights.epochs": epochs,
        "data.batch_size": batch_size,
        "run.seed": seed,
        "data.workers": workers,
        "run.device": device,
        "architecture.order": order,
        "architecture.latency_weight": latency_weight,
        "architecture.latency_table": latency_table,
    }
    values = {key: str(value) for key, value in given.items() if value is not None}
    values |= changed_values(changes)
    if recipe is not None:
        chosen = load_search_recipe(recipe, values)
    else:
        assert out is not None
        chosen = SearchRecipe.from_toml(SearchFolder(out).recipe().to_toml(), str(out), values)
    if dry_run:
        print_recipe(chosen, as_json)
        return
    assert out is not None
    _search(chosen, out, resume, force, as_json)


def _search(recipe: SearchRecipe, out: Path, resume: bool, force: bool, as_json: bool) -> None:
    from rich.console import Console

    from pocketnet_fast.search.searcher import search as run_search

    with explained_loading(out):
        outcome = run_search(recipe, out, resume=resume, force=force, console=Console(stderr=True))
    if int(os.environ.get("RANK", "0")) == 0:
        _report(outcome, as_json)
    if outcome.signal:
        raise typer.Exit(128 + outcome.signal)


def _report(outcome: SearchOutcome, as_json: bool) -> None:
    if outcome.signal:
        say_stopped("search", outcome.step, outcome.folder)
    if as_json:
        content = {
            **asdict(outcome),
            "folder": str(outcome.folder),
            "genotype": None if outcome.genotype is None else str(outcome.genotype),
            "genotype_file": None if outcome.genotype_file is None else str(outcome.genotype_file),
        }
        print_json(content)
    elif not outcome.signal and outcome.genotype is not None:
        typer.echo(
            f"{outcome.genotype}\n{outcome.genotype_file}: the genotype after epoch {outcome.best_epoch}, "
            f"validation accuracy {100 * outcome.best_accuracy:.2f} %; train it: "
            f"pocketnet train --genotype {outcome.genotype_file} --channels 16 --layers 18 --data ..."
        )


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("search")(search)
