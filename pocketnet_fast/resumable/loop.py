"""What a resumable run of epochs and steps keeps track of, whatever its steps train."""

from __future__ import annotations

import abc
import contextlib
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypeVar

import torch

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.resumable.display import Display
from pocketnet_fast.resumable.distributed import Processes, processes
from pocketnet_fast.resumable.folder import RECIPE_NAME, Folder, ProgressT, Recipe
from pocketnet_fast.resumable.interruption import Interruption
from pocketnet_fast.resumable.log import LOG_NAME, TENSORBOARD, RunLog, truncate_log

if TYPE_CHECKING:
    from rich.console import Console


class DivergedError(PocketNetError):
    """Too many steps in a row were not finite."""


@dataclass(frozen=True)
class StepReport:
    """What became of a step, the same on every process.

    Attributes:
        parts: "loss" and its parts, means over batches and processes; empty if the step was skipped.
        gradient_norm: The norm of the backbone's gradient before clipping.
        problem: Why the step was skipped; None if it was not.
        stop: Whether a process was asked to stop.
    """

    parts: dict[str, float]
    gradient_norm: float
    problem: str | None
    stop: bool


class RunSection(Protocol):
    """What the section "run" of a recipe says of every kind of run."""

    @property
    def device(self) -> str:
        """Where to compute: cpu, cuda or auto."""

    @property
    def threads(self) -> int | None:
        """Threads of torch; None leaves their number."""

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


class RunRecipe(Recipe, Protocol):
    """A recipe that has such a section."""

    @property
    def run(self) -> RunSection:
        """How the run goes."""


RunRecipeT = TypeVar("RunRecipeT", bound=RunRecipe)
MakeStep = Callable[[float, Callable[[], bool]], StepReport]
"""Makes a step, given the rate and what says whether to stop."""


def recipe_to_run(folder: Folder[RunRecipeT, Any], recipe: RunRecipeT | None, resume: bool) -> RunRecipeT:
    """The recipe that is carried out; torch gets its number of threads.

    Args:
        folder: The folder of the run.
        recipe: What was given; None with ``resume`` for the run's own.
        resume: Whether the run goes on.

    Raises:
        PocketNetError: There is none.
    """
    if recipe is None:
        if not resume:
            raise PocketNetError("a new run needs a recipe")
        recipe = folder.recipe()
    if recipe.run.threads is not None:
        torch.set_num_threads(recipe.run.threads)
    return recipe


@contextlib.contextmanager
def processes_for(
    folder: Folder[RunRecipeT, Any],
    recipe: RunRecipeT,
    resume: bool,
    check: Callable[[RunRecipeT, RunRecipeT], None],
) -> Iterator[Processes]:
    """Yield the processes of a run, when the first of them has seen that its folder can be used.

    Args:
        folder: The folder of the run.
        recipe: What is carried out.
        resume: Whether the run goes on.
        check: Raises if a run that was started with the first recipe cannot go on with the second one.

    Raises:
        PocketNetError: The folder holds a run already, or none that can go on.
    """
    with processes(recipe.run.device) as group:
        if group.first:
            if resume:
                check(folder.recipe(), recipe)
            elif folder.is_used:
                raise PocketNetError(
                    f"{folder.path} holds a run already; --resume goes on with it, or choose another --out"
                )
        yield group


class RunLoop(abc.ABC, Generic[RunRecipeT, ProgressT]):
    """Progress, log and display of a run; those who derive from it make the steps.

    Args:
        folder: The folder of the run.
        recipe: What the run is told to do.
        group: The processes; the first one writes and prints.
        progress: The progress of a run that starts.
        epochs: How many epochs the whole run has.
        console: Where progress is shown.
    """

    what: ClassVar[str]
    """What diverges if it does."""
    advice: ClassVar[str]
    """What to try then."""

    def __init__(
        self,
        folder: Folder[RunRecipeT, ProgressT],
        recipe: RunRecipeT,
        group: Processes,
        progress: ProgressT,
        epochs: int,
        console: Console | None,
    ) -> None:
        self.folder, self.recipe, self.group = folder, recipe, group
        self.path, self.progress, self.epochs = folder.path, progress, epochs
        self.console = console if group.first else None
        self.display = Display(None, 0, 0)
        self.log: RunLog | None = None
        self.unsaved = False
        self.speed = 0.0

    @abc.abstractmethod
    def restore(self, step: int) -> ProgressT:
        """Load a whole checkpoint, if it is of this run's sizes; returns its progress."""

    @abc.abstractmethod
    def epoch_steps(self) -> contextlib.AbstractContextManager[MakeStep]:
        """What makes the steps of the epoch from where the run is."""

    @abc.abstractmethod
    def rate(self) -> float:
        """The learning rate of the next step."""

    @abc.abstractmethod
    def evaluation_is_due(self) -> bool:
        """Whether what has been learned is to be evaluated now."""

    @abc.abstractmethod
    def evaluate(self, interruption: Interruption) -> bool:
        """Evaluate; whether a signal came, which ends it (a resumed run does it then)."""

    @abc.abstractmethod
    def save(self) -> None:
        """Write a checkpoint."""

    @abc.abstractmethod
    def facts(self) -> dict[str, Any]:
        """What the log says of the run where it starts."""

    @abc.abstractmethod
    def nothing_to_do(self) -> str:
        """What to say of a run that is finished before it goes on."""

    def remarks(self) -> list[str]:
        """What to say where the run starts."""
        return []

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.progress.epoch >= self.epochs

    def run(self, resume: bool) -> int:
        """Make steps until the run is finished or a signal came.

        Args:
            resume: Go on from the newest whole checkpoint.

        Returns:
            The signal that ended the run, or 0.

        Raises:
            PocketNetError: There is no whole checkpoint, or it is of other sizes.
            DivergedError: Too many steps in a row were skipped.
        """
        with self._undone_if_it_cannot_start(resume):
            self._begin(resume)
            with Interruption() as interruption:
                return self._run(interruption)

    def _run(self, interruption: Interruption) -> int:
        if self.finished:
            self.display.say(f"{self.path}: {self.nothing_to_do()}")
        stopped = False
        try:
            if self.evaluation_is_due():
                stopped = self.evaluate(interruption)
            while not self.finished and not stopped:
                stopped = self._epoch(interruption)
            if self.unsaved:
                self._save()
        finally:
            self.close()
        self.group.wait()
        # Of several processes, another one may have been signalled.
        return interruption.signal or (signal.SIGTERM if stopped else 0)

    def _epoch(self, interruption: Interruption) -> bool:
        """Make steps to the end of the epoch; whether a signal came before."""
        progress = self.progress
        with self.epoch_steps() as make_step:
            for _ in range(progress.step_in_epoch, progress.steps_per_epoch):
                start = time.perf_counter()
                rate = self.rate()
                report = make_step(rate, lambda: interruption.signal != 0)
                self._advance(report, rate, time.perf_counter() - start)
                stopped = report.stop
                if self.evaluation_is_due() and not stopped:
                    stopped = self.evaluate(interruption)
                if self._save_is_due():
                    self._save()
                if stopped:
                    return True
        return False

    def _save(self) -> None:
        self.save()
        self.unsaved = False

    def _begin(self, resume: bool) -> None:
        """Read the newest whole checkpoint or start the folder; all processes wait for the first."""
        found: ProgressT | None = None
        problems: list[str] = []
        if self.group.first and resume:
            found, problems = self.folder.latest()
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
        self.folder.write_recipe(self.recipe)
        if resume:
            self.folder.forget_after(progress.step)
            truncate_log(self.path, progress.step, progress.verified_step)
        self.log = RunLog(self.path, self.recipe.run.tensorboard, progress.step)
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

    def _abandon(self) -> None:
        """Remove what a run has written that failed before its first step, so that its folder can be used."""
        if not self.group.first:
            return
        for name in (RECIPE_NAME, LOG_NAME):
            (self.path / name).unlink(missing_ok=True)
        shutil.rmtree(self.path / TENSORBOARD, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()

    @contextlib.contextmanager
    def _undone_if_it_cannot_start(self, resume: bool) -> Iterator[None]:
        """Call ``_abandon`` if a new run's first step raises."""
        try:
            yield
        except BaseException:
            if not resume and self.progress.step == 0:
                self.close()
                self._abandon()
            raise

    def close(self) -> None:
        """End display and log."""
        self.display.close()
        if self.log is not None:
            self.log.close()

    def _advance(self, report: StepReport, rate: float, seconds: float) -> None:
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
        if progress.step_in_epoch == progress.steps_per_epoch:
            self._end_epoch(rate)

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
        if self.log is not None and progress.step % self.recipe.run.log_steps == 0:
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
        if progress.skipped_in_row >= self.recipe.run.max_skipped:
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

    def _save_is_due(self) -> bool:
        """Whether to save after this step: at an epoch's end, and as often as the recipe says."""
        every = self.recipe.run.save_steps
        return self.progress.step_in_epoch == 0 or (every > 0 and self.progress.step % every == 0)
