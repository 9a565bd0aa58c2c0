"""``pocketnet distill``: a network from a teacher alone."""

from __future__ import annotations

from typing import Annotated

import typer

from pocketnet_fast.cli.option_groups import grouped
from pocketnet_fast.cli.train import TrainCommand, TrainingOptions


@grouped
def distill(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe with a teacher; default: transfer_distill.")
    ] = None,
    *,
    teacher_model: Annotated[
        str | None, typer.Option(help="Architecture of a weight file that does not name its own.")
    ] = None,
    options: TrainingOptions,
) -> None:
    """Train a network to give a teacher's embeddings; the faces need no labels.

    The teacher is a weight file, a TorchScript or ONNX file, or a training run's folder. Apart from the
    default recipe this is pocketnet train.

    Example: [bold]pocketnet distill --teacher mobilefacenet.safetensors --teacher-model mobilefacenet
    --data faces/ --verify lfw.bin --out runs/student[/bold]
    """
    if recipe is None and not options.resume:
        recipe = "transfer_distill"
    TrainCommand()(
        recipe, options, {"distillation.teacher_model": teacher_model, **options.training_values()}
    )


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("distill")(distill)
