"""A training run from its recipe to its last checkpoint."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pocketnet_fast.evaluation.verification import VerificationResult
from pocketnet_fast.resumable.distributed import Processes
from pocketnet_fast.resumable.folder import Progress
from pocketnet_fast.resumable.interruption import Interruption, StoppedError
from pocketnet_fast.resumable.loop import MakeStep, RunLoop, processes_for, recipe_to_run
from pocketnet_fast.training.assembly import Parts, assemble, contents, restore
from pocketnet_fast.training.checkpoint import RunFolder
from pocketnet_fast.training.recipe import Recipe
from pocketnet_fast.training.resuming import check_progress, check_recipe
from pocketnet_fast.training.schedule import initial_rate, learning_rate
from pocketnet_fast.training.validation import Validator

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        folder: The run's.
        weights: The backbone's weights after the last step.
        step: Steps made.
        epoch: Whole epochs done.
        skipped: Steps skipped because something was not finite.
        finished: Whether all epochs are done.
        signal: The signal that stopped it, or 0.
        verification: The last results by name; empty if none was made by this call.
    """

    folder: Path
    weights: Path
    step: int
    epoch: int
    skipped: int
    finished: bool
    signal: int
    verification: dict[str, VerificationResult]


def train(
    recipe: Recipe | None,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    force: bool = False,
    console: Console | None = None,
) -> Outcome:
    """Train by a recipe into a folder, or go on with the run that is there.

    Under torchrun each process calls this, and the first one writes and prints. SIGINT and SIGTERM end the
    step, save, and return.

    Args:
        recipe: None with ``resume``: the run's own.
        folder: The folder of the run; it must hold none, unless ``resume``.
        resume: Go on from the newest whole checkpoint; on the CPU with as many processes, bit for bit.
        force: Resume although harmless values of the recipe differ.
        console: Where progress is shown.

    Raises:
        PocketNetError: A recipe that cannot be carried out, or a folder that cannot be used or resumed.
        DivergedError: ``run.max_skipped`` steps in a row were not finite.

    Examples:
        >>> outcome = train(load_recipe("synthetic_tiny"), "runs/tiny")
        >>> outcome.finished
        True
    """
    run = RunFolder(Path(folder))
    recipe = recipe_to_run(run, recipe, resume)
    check = partial(check_recipe, force=force)
    with processes_for(run, recipe, resume, check) as group:
        parts = assemble(recipe, group, run.path, resumed=resume)
        training = _Training(recipe, run, parts, group, console)
        return training.outcome(training.run(resume))


class _Training(RunLoop[Recipe, Progress]):
    what, advice = "training", "a lower --lr"

    def __init__(
        self, recipe: Recipe, run: RunFolder, parts: Parts, group: Processes, console: Console | None
    ) -> None:
        progress = Progress(parts.steps_per_epoch, parts.images_per_step)
        super().__init__(run, recipe, group, progress, recipe.schedule.epochs, console)
        self.checkpoints, self.parts = run, parts
        self.initial_rate = initial_rate(recipe.optimizer, parts.images_per_step)
        self.validator = Validator(recipe.verification, parts.dataset, group.device) if group.first else None
        self.results: dict[str, VerificationResult] = {}

    def restore(self, step: int) -> Progress:
        progress = self.checkpoints.progress(step)
        check_progress(progress, self.parts.steps_per_epoch, self.parts.images_per_step)
        restore(self.parts, self.checkpoints, progress)
        return progress

    def facts(self) -> dict[str, Any]:
        return {"images": len(self.parts.dataset), "classes": self.parts.dataset.classes}

    def remarks(self) -> list[str]:
        teacher = self.parts.teacher
        return [] if teacher is None else [f"the teacher {teacher.name} runs on {teacher.engine}"]

    def stepped(self) -> None:
        if self.parts.ema is not None:
            self.parts.ema.update()
            self.progress.ema_updates = self.parts.ema.updates

    def nothing_to_do(self) -> str:
        return f"all {self.epochs} epochs are done already"

    def rate(self) -> float:
        progress = self.progress
        return learning_rate(self.recipe.schedule, self.initial_rate, progress.step, progress.steps_per_epoch)

    @contextlib.contextmanager
    def epoch_steps(self) -> Iterator[MakeStep]:
        progress, parts = self.progress, self.parts
        accumulate = self.recipe.optimizer.accumulate
        if parts.teacher is not None:
            parts.teacher.enter_epoch(progress.epoch + 1)
        parts.loader.sampler.set_position(progress.epoch, progress.step_in_epoch * accumulate)
        with contextlib.closing(iter(parts.loader)) as batches:
            yield lambda rate, stop: parts.stepper(
                [next(batches) for _ in range(accumulate)], rate, self._seed(), stop
            )

    def _seed(self) -> int:
        place = (self.progress.epoch, self.progress.step_in_epoch, self.group.rank)
        sequence = np.random.SeedSequence(self.recipe.run.seed, spawn_key=place)
        return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))

    def evaluation_is_due(self) -> bool:
        progress, verification = self.progress, self.recipe.verification
        if progress.step in (0, progress.verified_step) or not (
            verification.bins or verification.synthetic_identities
        ):
            return False
        if verification.every_steps and progress.step % verification.every_steps == 0:
            return True
        if progress.step_in_epoch:
            return False
        every = verification.every_epochs
        return progress.epoch == self.recipe.schedule.epochs or (every > 0 and progress.epoch % every == 0)

    def evaluate(self, interruption: Interruption) -> bool:
        """Verify on the first process; whether a signal came to any."""
        if self.validator is not None:
            self._verify(self.validator, interruption)
        self.unsaved = True
        signals = torch.tensor([float(interruption.signal != 0)], device=self.group.device)
        return bool(self.group.sum_(signals).item())

    def _verify(self, validator: Validator, interruption: Interruption) -> None:
        progress = self.progress
        model = self.parts.model if self.parts.ema is None else self.parts.ema.model
        with self.display.verifying(validator.images) as advance:

            def on_batch(images: int) -> None:
                advance(images)
                if interruption.signal:
                    raise StoppedError

            try:
                self.results = validator(model, on_batch)
            except StoppedError:
                return
        progress.verified_step = progress.step
        for name, result in self.results.items():
            self.display.verification(name, result)
            if self.log is not None:
                values = {key: round(value, 6) for key, value in asdict(result).items()}
                self.log.write("verification", progress.step, epoch=progress.epoch, dataset=name, **values)

    def save(self) -> None:
        saved = contents(self.parts, self.progress, self.group)
        if saved is not None:
            self.checkpoints.save(saved, self.recipe)

    def outcome(self, number: int) -> Outcome:
        """How the run ended, by a signal or none (0)."""
        progress = self.progress
        return Outcome(
            folder=self.path,
            weights=self.checkpoints.file(progress.step, "backbone"),
            step=progress.step,
            epoch=progress.epoch,
            skipped=progress.skipped,
            finished=self.finished,
            signal=number,
            verification=self.results,
        )
