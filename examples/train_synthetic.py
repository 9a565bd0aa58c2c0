"""From nothing to recognition: render people, train a teacher, and train a smaller network in four ways.

Takes some minutes on one core and needs no download::

    python examples/train_synthetic.py --out runs/synthetic

The same with the command line::

    pocketnet train synthetic_tiny --out runs/teacher --set model.channels=8
    pocketnet train synthetic_tiny --out runs/arcface
    pocketnet train synthetic_tiny --out runs/kd --set loss.objective=margin_kd --teacher runs/teacher
    pocketnet train synthetic_tiny --out runs/multistep --set loss.objective=margin_kd \\
        --set distillation.multi_step=true --teacher runs/teacher
    pocketnet distill synthetic_tiny --out runs/features --set loss.objective=features --teacher runs/teacher
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pocketnet_fast.training import load_recipe, train

TEACHER_CHANNELS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/synthetic"), help="folder of the runs")
    parser.add_argument("--epochs", type=int, default=6)
    arguments = parser.parse_args()

    teacher = arguments.out / "teacher"
    taught = {"distillation.teacher": str(teacher)}
    plans = {
        "teacher": {"model.channels": str(TEACHER_CHANNELS)},
        "arcface": {},
        "distillation": {**taught, "loss.objective": "margin_kd"},
        "multistep": {**taught, "loss.objective": "margin_kd", "distillation.multi_step": "true"},
        "features": {**taught, "loss.objective": "features"},
    }
    console = Console()
    table = Table("network", "verification of unseen people", "weights", box=None)
    for name, values in plans.items():
        console.rule(name)
        recipe = load_recipe("synthetic_tiny", {"schedule.epochs": str(arguments.epochs), **values})
        outcome = train(recipe, arguments.out / name, console=console)
        if outcome.signal:
            raise SystemExit(128 + outcome.signal)
        result = outcome.verification["synthetic"]
        accuracy = f"{100 * result.accuracy:.2f} +- {100 * result.accuracy_std:.2f} %"
        table.add_row(name, accuracy, str(outcome.weights))
    console.print(table)


if __name__ == "__main__":
    main()
