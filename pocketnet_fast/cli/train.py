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
    values = overrides(data, teacher, epochs, batch_size, lr, seed, workers, device, verify, changes)
    run(recipe, out, values, resume, force, dry_run, listing, as_json)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("train")(train)
