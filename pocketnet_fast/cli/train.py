"""``pocketnet train``: a network from a recipe."""

from __future__ import annotations

from typing import Annotated

import typer

from pocketnet_fast.cli.loading import JsonOption
from pocketnet_fast.cli.training import (
    BatchOption,
    DataOption,
    DeviceOption,
    DryRunOption,
    EpochsOption,
    ForceOption,
    ListOption,
    OutOption,
    RateOption,
    ResumeOption,
    SeedOption,
    SetOption,
    TeacherOption,
    VerifyOption,
    WorkersOption,
    overrides,
    run,
)


def train(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe of --list or a .toml file; with --resume, the run's own.")
    ] = None,
    *,
    out: OutOption = None,
    data: DataOption = None,
    genotype: Annotated[
        str | None,
        typer.Option(
            help="Train a PocketNet of this genotype: a file of `pocketnet search`, a published one's name, "
            "or its text. The recipe is then pocketnet_s128_arcface unless another is named."
        ),
    ] = None,
    channels: Annotated[int | None, typer.Option(help="Width of a PocketNet's first cells.")] = None,
    layers: Annotated[int | None, typer.Option(help="Number of a PocketNet's cells.")] = None,
    teacher: TeacherOption = None,
    epochs: EpochsOption = None,
    batch_size: BatchOption = None,
    lr: RateOption = None,
    seed: SeedOption = None,
    workers: WorkersOption = None,
    device: DeviceOption = None,
    verify: VerifyOption = None,
    changes: SetOption = None,
    resume: ResumeOption = False,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    listing: ListOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a network by a recipe.

    The folder given by --out gets the resolved recipe, a log (log.jsonl), and checkpoints with the weights as
    STEPbackbone.safetensors. Ctrl-C ends the step, saves, and says how to go on. Several processes:
    torchrun --nproc-per-node 2 -m pocketnet_fast.cli train ...

    Example: [bold]pocketnet train synthetic_tiny --out runs/tiny[/bold]
    """
    values = _network(genotype, channels, layers)
    values |= overrides(data, teacher, epochs, batch_size, lr, seed, workers, device, verify, changes)
    if recipe is None and genotype is not None and not resume:
        recipe = "pocketnet_s128_arcface"
    run(recipe, out, values, resume, force, dry_run, listing, as_json)


def _network(genotype: str | None, channels: int | None, layers: int | None) -> dict[str, str]:
    """The options as values of a recipe; the genotype as text, so that a run does not depend on its file."""
    from pocketnet_fast.models.genotypes import format_genotype, genotype_from_name

    given = {"model.channels": channels, "model.layers": layers}
    values = {key: str(value) for key, value in given.items() if value is not None}
    if genotype is not None or values:
        values["model.name"] = "pocketnet"
    if genotype is not None:
        values["model.genotype"] = format_genotype(genotype_from_name(genotype))
    return values


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("train")(train)
