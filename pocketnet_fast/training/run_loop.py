"""What a resumable run of epochs and steps keeps track of, whatever its steps train."""

from __future__ import annotations

import abc
import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol

import torch

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.training.checkpoint import RECIPE_NAME, ProgressT
from pocketnet_fast.training.display import Display
from pocketnet_fast.training.distributed import Processes
from pocketnet_fast.training.log import LOG_NAME, TENSORBOARD, RunLog, truncate_log
from pocketnet_fast.training.step import StepReport

if TYPE_CHECKING:
    from rich.console import Console


class DivergedError(PocketNetError):
    """Too many steps in a row were not finite."""


class Habits(Protocol):
    """What the section "run" of a recipe says of every kind of run."""

    @property
    def save_steps(self) -> int:
        """Steps between saves within an epoch; 0: only at its end."""

    @property
    def log_steps(self) -> int:
        """Steps between lines of the log."""

    @property
    def max_skipped(self) -> int:
        """Steps in a row without finite loss and gradient after which the run stops."""

    @property
    def tensorboard(self) -> Literal["auto"] | bool:
        """Whether to write TensorBoard's files."""


class RunLoop(abc.ABC, Generic[ProgressT]):
    """Progress, log and display of a run; those who derive from it make the steps.

    Args:
        path: The run's folder.
        group: The processes; the first one writes and prints.
        progress: Of a run that starts.
        epochs: Of the whole run.
        habits: When to log and to save, and when to give up.
        console: Where progress is shown.
    """

    what: ClassVar[str]
    """What diverges if it does."""
    advice: ClassVar[str]
    """What to try then."""

    def __init__(
        self,
        path: Path,
        group: Processes,
        progress: ProgressT,
        epochs: int,
        habits: Habits,
        console: Console | None,
    ) -> None:
        self.path, self.group, self.progress, self.epochs, self.habits = path, group, progress, epochs, habits
        self.console = console if group.first else None
        self.display = Display(None, 0, 0)
        self.log: RunLog | None = None
        self.unsaved = False
        self.speed = 0.0

    @abc.abstractmethod
    def newest(self) -> tuple[ProgressT | None, list[str]]:
        """The progress of the newest whole checkpoint, and what is wrong with each newer one."""

    @abc.abstractmethod
    def restore(self, step: int) -> ProgressT:
        """Load a checkpoint that ``newest`` found, if it is of this run's sizes; returns its progress."""

    @abc.abstractmethod
    def open_folder(self, forget_after: int | None) -> None:
        """Write the recipe; of a resumed run, remove what is later than the step."""

    @abc.abstractmethod
    def facts(self) -> dict[str, Any]:
        """What the log says of the run where it starts."""

    def remarks(self) -> list[str]:
        """What to say where the run starts."""
        return []

    def begin(self, resume: bool) -> None:
        """Read the newest whole checkpoint or start the folder; all processes wait for the first.

        Raises:
            PocketNetError: If there is no whole checkpoint, or it is of other sizes.
        """
        found: ProgressT | None = None
        problems: list[str] = []
        if self.group.first and resume:
            found, problems = self.newest()
            if found is None and problems:
                raise PocketNetError(f"no checkpoint can be read: {'; '.join(problems)}")
        chosen = torch.tensor([0 if found is None else found.step + 1], device=self.group.device)
        step = int(self.group.sum_(chosen).item()) - 1
        if step >= 0:
            self.progress = self.restore(step)
        if self.group.first:
            self._open(resume, problems)

    def _open(self, resume: bool, problems: list[str]) -> None:
        progress = self.progress
        self.open_folder(progress.step if resume else None)
        if resume:
            truncate_log(self.path, progress.step, progress.verified_step)
        self.log = RunLog(self.path, self.habits.tensorboard, progress.step)
        self.display = Display(self.console, self.epochs * progress.steps_per_epoch, progress.step)
        for text in problems:
            self.display.say(text)
        if resume:
            self.display.say(f"going on after step {progress.step:,} (epoch {progress.epoch + 1})")
        if self.log.remark is not None:
            self.display.say(self.log.remark)
        for text in self.remarks():
            self.display.say(text)
        self.log.write(
            "resume" if resume else "start",
            progress.step,
            **self.facts(),
            processes=self.group.ranks,
            device=self.group.device.type,
        )

    def abandon(self) -> None:
        """Remove what a run has written that failed before its first step, so that its folder can be used."""
        if not self.group.first:
            return
        for name in (RECIPE_NAME, LOG_NAME):
            (self.path / name).unlink(missing_ok=True)
        shutil.rmtree(self.path / TENSORBOARD, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()

    @contextlib.contextmanager
    def undone_if_it_cannot_start(self, resume: bool) -> Iterator[None]:
        """Call ``abandon`` if a new run's first step raises."""
        try:
            yield
        except BaseException:
            if not resume and self.progress.step == 0:
                self.close()
                self.abandon()
            raise

    def close(self) -> None:
        """End display and log."""
        self.display.close()
        if self.log is not None:
            self.log.close()

    def advance(self, report: StepReport, rate: float, seconds: float) -> bool:
        """Count a step; whether it was the epoch's last.

        Raises:
            DivergedError: If too many in a row were skipped.
        """
        progress = self.progress
        progress.step += 1
        progress.step_in_epoch += 1
        self.unsaved = True
        speed = progress.images_per_step / max(seconds, 1e-9)
        self.speed = speed if self.speed == 0 else 0.9 * self.speed + 0.1 * speed
        if report.problem is None:
            self._count(report, rate)
        else:
            self._skip(report.problem, rate)
        if progress.step_in_epoch < progress.steps_per_epoch:
            return False
        self._end_epoch(rate)
        return True

    def stepped(self) -> None:
        """Called after every step that was not skipped."""

    def _count(self, report: StepReport, rate: float) -> None:
        progress = self.progress
        progress.skipped_in_row = 0
        self.stepped()
        for name, value in report.parts.items():
            progress.epoch_sums[name] = progress.epoch_sums.get(name, 0.0) + value
        progress.epoch_steps += 1
        epoch = progress.epoch + 1
        self.display.step(progress.step, epoch, self.epochs, report.parts, rate, self.speed)
        if self.log is not None and progress.step % self.habits.log_steps == 0:
            self.log.write(
                "step",
                progress.step,
                epoch=epoch,
                **report.parts,
                lr=rate,
                gradient_norm=report.gradient_norm,
                skipped=progress.skipped,
                images_per_second=round(self.speed, 1),
            )

    def _skip(self, problem: str, rate: float) -> None:
        progress = self.progress
        progress.skipped += 1
        progress.skipped_in_row += 1
        if self.log is not None:
            self.log.write("skipped", progress.step, epoch=progress.epoch + 1, reason=problem, lr=rate)
        self.display.say(f"step {progress.step:,} skipped: {problem}")
        if progress.skipped_in_row >= self.habits.max_skipped:
            raise DivergedError(
                f"{self.what} has diverged: {problem}, and step {progress.step:,} is the last of "
                f"{progress.skipped_in_row} in a row that had to be skipped; try {self.advice}"
            )

    def _end_epoch(self, rate: float) -> None:
        progress = self.progress
        progress.epoch += 1
        progress.step_in_epoch = 0
        progress.epoch_weights[progress.epoch] = progress.step
        means = {name: total / progress.epoch_steps for name, total in progress.epoch_sums.items()}
        progress.epoch_sums, progress.epoch_steps = {}, 0
        self.display.epoch(progress.epoch, self.epochs, means, rate, self.speed)
        if self.log is not None:
            values = {**means, "lr": rate, "skipped": progress.skipped}
            self.log.write("epoch", progress.step, epoch=progress.epoch, **values)

    def save_is_due(self) -> bool:
        """Whether to save after this step: at an epoch's end, and as often as the recipe says."""
        every = self.habits.save_steps
        return self.progress.step_in_epoch == 0 or (every > 0 and self.progress.step % every == 0)
