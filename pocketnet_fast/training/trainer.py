"""A training run from its recipe to its last checkpoint."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pocketnet_fast.data.loader import Batch
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.evaluation.verification import VerificationResult
from pocketnet_fast.training.assembly import Parts, assemble, contents, restore
from pocketnet_fast.training.checkpoint import Progress, RunFolder
from pocketnet_fast.training.distributed import Processes, processes
from pocketnet_fast.training.interruption import Interruption
from pocketnet_fast.training.recipe import Recipe
from pocketnet_fast.training.resuming import check_progress, check_recipe
from pocketnet_fast.training.run_loop import RunLoop
from pocketnet_fast.training.schedule import initial_rate, learning_rate
from pocketnet_fast.training.validation import StoppedError, Validator

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
        folder: Of the run; it must hold none, unless ``resume``.
        resume: Go on from the newest whole checkpoint; on the CPU with as many processes, bit for bit.
        force: Resume although harmless values of the recipe differ.
        console: Where progress is shown.

    Raises:
        PocketNetError: On a recipe that cannot be carried out, or a folder that cannot be used or resumed.
        DivergedError: If ``run.max_skipped`` steps in a row were not finite.
    """
    run = RunFolder(Path(folder))
    if recipe is None:
        if not resume:
            raise PocketNetError("a new run needs a recipe")
        recipe = run.recipe()
    if recipe.run.threads is not None:
        torch.set_num_threads(recipe.run.threads)
    with processes(recipe.run.device) as group:
        if group.first:
            _check_folder(run, recipe, resume=resume, force=force)
        parts = assemble(recipe, group, run.path, resumed=resume)
        training = _Training(recipe, run, parts, group, console if group.first else None)
        with training.undone_if_it_cannot_start(resume):
            training.begin(resume)
            with Interruption() as interruption:
                return training.loop(interruption)


def _check_folder(run: RunFolder, recipe: Recipe, *, resume: bool, force: bool) -> None:
    if resume:
        check_recipe(run.recipe(), recipe, force=force)
    elif run.is_used:
        raise PocketNetError(
            f"{run.path} holds a run already; --resume goes on with it, or choose another --out"
        )


class _Training(RunLoop[Progress]):
    what, advice = "training", "a lower --lr"

    def __init__(
        self, recipe: Recipe, run: RunFolder, parts: Parts, group: Processes, console: Console | None
    ) -> None:
        progress = Progress(parts.steps_per_epoch, parts.images_per_step)
        super().__init__(run.path, group, progress, recipe.schedule.epochs, recipe.run, console)
        self.recipe, self.run, self.parts = recipe, run, parts
        self.rate = initial_rate(recipe.optimizer, parts.images_per_step)
        self.validator = Validator(recipe.verification, parts.dataset, group.device) if group.first else None
        self.results: dict[str, VerificationResult] = {}

    def newest(self) -> tuple[Progress | None, list[str]]:
        return self.run.latest()

    def restore(self, step: int) -> Progress:
        progress = self.run.progress(step)
        check_progress(progress, self.parts.steps_per_epoch, self.parts.images_per_step)
        restore(self.parts, self.run, progress)
        return progress

    def open_folder(self, forget_after: int | None) -> None:
        self.run.write_recipe(self.recipe)
        if forget_after is not None:
            self.run.forget_after(forget_after)

    def facts(self) -> dict[str, Any]:
        return {"images": len(self.parts.dataset), "classes": self.parts.dataset.classes}

    def remarks(self) -> list[str]:
        teacher = self.parts.teacher
        return [] if teacher is None else [f"the teacher {teacher.name} runs on {teacher.engine}"]

    def stepped(self) -> None:
        if self.parts.ema is not None:
            self.parts.ema.update()
            self.progress.ema_updates = self.parts.ema.updates

    def loop(self, interruption: Interruption) -> Outcome:
        """Train until the last epoch is done or a signal came."""
        progress, epochs = self.progress, self.epochs
        if progress.epoch >= epochs:
            self.display.say(f"{self.run.path}: all {epochs} epochs are done already")
        try:
            stopped = False
            if self._verification_is_due() and progress.verified_step != progress.step:
                stopped = self._verify(interruption)
            while progress.epoch < epochs and not stopped:
                stopped = self._epoch(interruption)
            if self.unsaved:
                self._save()
        finally:
            self.close()
        self.group.wait()
        # Of several processes, another one may have been signalled.
        return self._outcome(interruption.signal or (signal.SIGTERM if stopped else 0))

    def _epoch(self, interruption: Interruption) -> bool:
        """Train to the end of the epoch; whether a signal came before."""
        progress, parts = self.progress, self.parts
        accumulate = self.recipe.optimizer.accumulate
        if parts.teacher is not None:
            parts.teacher.enter_epoch(progress.epoch + 1)
        parts.loader.sampler.set_position(progress.epoch, progress.step_in_epoch * accumulate)
        with contextlib.closing(iter(parts.loader)) as batches:
            return self._steps(batches, interruption)

    def _steps(self, batches: Iterator[Batch], interruption: Interruption) -> bool:
        progress, parts = self.progress, self.parts
        accumulate = self.recipe.optimizer.accumulate
        for _ in range(progress.step_in_epoch, parts.steps_per_epoch):
            start = time.perf_counter()
            rate = learning_rate(self.recipe.schedule, self.rate, progress.step, parts.steps_per_epoch)
            step = [next(batches) for _ in range(accumulate)]
            report = parts.stepper(step, rate, self._seed(), lambda: interruption.signal != 0)
            self.advance(report, rate, time.perf_counter() - start)
            stopped = report.stop
            if self._verification_is_due() and not stopped:
                stopped = self._verify(interruption)
            if self.save_is_due():
                self._save()
            if stopped:
                return True
        return False

    def _seed(self) -> int:
        place = (self.progress.epoch, self.progress.step_in_epoch, self.group.rank)
        sequence = np.random.SeedSequence(self.recipe.run.seed, spawn_key=place)
        return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))

    def _verification_is_due(self) -> bool:
        progress, verification = self.progress, self.recipe.verification
        if progress.step == 0 or not (verification.bins or verification.synthetic_identities):
            return False
        if verification.every_steps and progress.step % verification.every_steps == 0:
            return True
        if progress.step_in_epoch:
            return False
        every = verification.every_epochs
        return progress.epoch == self.recipe.schedule.epochs or (every > 0 and progress.epoch % every == 0)

    def _verify(self, interruption: Interruption) -> bool:
        """Verify on the first process; whether a signal came, which ends it (a resumed run verifies then)."""
        if self.validator is not None:
            self._verify_here(self.validator, interruption)
        self.unsaved = True
        signals = torch.tensor([float(interruption.signal != 0)], device=self.group.device)
        return bool(self.group.sum_(signals).item())

    def _verify_here(self, validator: Validator, interruption: Interruption) -> None:
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

    def _save(self) -> None:
        saved = contents(self.parts, self.progress, self.group)
        if saved is not None:
            self.run.save(saved, self.recipe)
        self.unsaved = False

    def _outcome(self, number: int) -> Outcome:
        progress = self.progress
        return Outcome(
            folder=self.run.path,
            weights=self.run.file(progress.step, "backbone"),
            step=progress.step,
            epoch=progress.epoch,
            skipped=progress.skipped,
            finished=progress.epoch >= self.recipe.schedule.epochs,
            signal=number,
            verification=self.results,
        )
