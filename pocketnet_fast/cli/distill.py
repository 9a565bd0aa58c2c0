"""``pocketnet distill``: a network from a teacher alone."""

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


def distill(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe with a teacher; default: transfer_distill.")
    ] = None,
    *,
    out: OutOption = None,
    data: DataOption = None,
    teacher: TeacherOption = None,
    teacher_model: Annotated[
        str | None, typer.Option(help="Architecture of a weight file that does not name its own.")
    ] = None,
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
    """Train a network to give a teacher's embeddings; the faces need no labels.

    The teacher is a weight file, a TorchScript file or a training run's folder. Apart from the default recipe
    this is pocketnet train.

    Example: [bold]pocketnet distill --teacher mobilefacenet.safetensors --teacher-model mobilefacenet
    --data faces/ --verify lfw.bin --out runs/student[/bold]
    """
    values = overrides(data, teacher, epochs, batch_size, lr, seed, workers, device, verify, changes)
    if teacher_model is not None:
        values = {"distillation.teacher_model": teacher_model, **values}
    if recipe is None and not resume:
        recipe = "transfer_distill"
    run(recipe, out, values, resume, force, dry_run, listing, as_json)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("distill")(distill)
