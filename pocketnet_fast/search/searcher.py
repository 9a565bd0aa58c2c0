"""A search from its recipe to the genotype."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.files import atomic_write
from pocketnet_fast.models.genotypes import Genotype, format_genotype, read_genotype
from pocketnet_fast.pictures import has_matplotlib
from pocketnet_fast.resumable.distributed import Processes
from pocketnet_fast.resumable.interruption import Interruption, StoppedError
from pocketnet_fast.resumable.log import read_log
from pocketnet_fast.resumable.loop import MakeStep, RunLoop, processes_for, recipe_to_run
from pocketnet_fast.search import drawing
from pocketnet_fast.search.assembly import SearchParts, assemble_search
from pocketnet_fast.search.checkpoint import EPOCHS, GENOTYPE_NAME, SearchFolder, SearchProgress
from pocketnet_fast.search.derivation import derive_genotype
from pocketnet_fast.search.failure_signs import dominant_eigenvalue, skip_shares
from pocketnet_fast.search.network import SearchNetwork
from pocketnet_fast.search.recipe import SearchRecipe
from pocketnet_fast.search.step import Batch
from pocketnet_fast.training.resuming import check_changes, check_progress
from pocketnet_fast.training.schedule import learning_rate

if TYPE_CHECKING:
    from rich.console import Console

# What changes nothing that is found, or no more than by rounding.
_HARMLESS = {
    "network.fused",
    "data.source",
    "data.workers",
    "run.device",
    "run.drawings",
    "run.keep",
    "run.log_steps",
    "run.max_skipped",
    "run.save_steps",
    "run.tensorboard",
    "run.threads",
}
_CELLS = ("normal", "reduce")


@dataclass(frozen=True)
class SearchOutcome:
    """How a search ended.

    Attributes:
        folder: The search's.
        genotype: That of the best epoch by validation accuracy, or, where latency counts, by validation loss
            and expected latency together, as they are weighed; None before the first epoch's end.
        genotype_file: Where it lies; None before the first epoch's end.
        epoch: Whole epochs done.
        step: Steps made.
        best_epoch: The genotype's.
        best_accuracy: The accuracy of the validation half by the search network after that epoch, in 0..1.
        finished: Whether all epochs are done or the search ended itself.
        ended: Why it ended itself; empty if it did not.
        signal: The signal that stopped it, or 0.
    """

    folder: Path
    genotype: Genotype | None
    genotype_file: Path | None
    epoch: int
    step: int
    best_epoch: int
    best_accuracy: float
    finished: bool
    ended: str
    signal: int


def search(
    recipe: SearchRecipe | None,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    force: bool = False,
    console: Console | None = None,
) -> SearchOutcome:
    """Search by a recipe into a folder, or go on with the search that is there.

    Arguments, resuming, signals and several processes are those of ``training.train``.

    Raises:
        PocketNetError: A recipe that cannot be carried out, or a folder that cannot be used or resumed.
        DivergedError: ``run.max_skipped`` steps in a row were not finite.

    Examples:
        >>> outcome = search(load_search_recipe("synthetic_tiny"), "runs/search")
        >>> outcome.genotype
    """
    run = SearchFolder(Path(folder))
    recipe = recipe_to_run(run, recipe, resume)
    if recipe.run.drawings is True and not has_matplotlib():
        raise PocketNetError(
            'run.drawings is true, and matplotlib is not installed: pip install "pocketnet_fast[eval]"'
        )
    check = partial(check_changes, is_harmless=_HARMLESS.__contains__, force=force)
    with processes_for(run, recipe, resume, check) as group:
        searching = _Search(recipe, run, assemble_search(recipe, group), group, console)
        return searching.outcome(searching.run(resume))


def current_genotype(network: SearchNetwork) -> Genotype:
    """The genotype of a network's alphas as they are."""
    return derive_genotype([*network.alpha_normal], [*network.alpha_reduce])


class _Search(RunLoop[SearchRecipe, SearchProgress]):
    what, advice = "the search", "a lower weights.lr"

    def __init__(
        self,
        recipe: SearchRecipe,
        run: SearchFolder,
        parts: SearchParts,
        group: Processes,
        console: Console | None,
    ) -> None:
        progress = SearchProgress(parts.steps_per_epoch, recipe.data.batch_size * group.ranks)
        super().__init__(run, recipe, group, progress, recipe.schedule.epochs, console)
        self.checkpoints, self.parts = run, parts

    def restore(self, step: int) -> SearchProgress:
        tensors, progress = self.checkpoints.load(step)
        check_progress(progress, self.progress.steps_per_epoch, self.progress.images_per_step)
        self.parts.restore(tensors, f"{self.path}, step {step}")
        return progress

    def facts(self) -> dict[str, Any]:
        return {"images": self.parts.images, "classes": self.parts.network.classes}

    def remarks(self) -> list[str]:
        if self.recipe.run.drawings != "auto" or has_matplotlib():
            return []
        return ["matplotlib is not installed (pip install 'pocketnet_fast[eval]'); nothing is drawn"]

    def nothing_to_do(self) -> str:
        return "the search is done already"

    @property
    def finished(self) -> bool:
        """Whether all epochs are done or the search ended itself."""
        return bool(self.progress.ended) or super().finished

    def rate(self) -> float:
        progress, recipe = self.progress, self.recipe
        return learning_rate(recipe.schedule, recipe.weights.lr, progress.step, progress.steps_per_epoch)

    @contextlib.contextmanager
    def epoch_steps(self) -> Iterator[MakeStep]:
        progress, parts = self.progress, self.parts
        trains_alphas = progress.epoch + 1 >= self.recipe.architecture.begin_epoch
        for loader in (parts.train_loader, parts.val_loader):
            loader.sampler.set_position(progress.epoch, progress.step_in_epoch)
        with contextlib.ExitStack() as stack:
            train_batches = stack.enter_context(contextlib.closing(iter(parts.train_loader)))
            val_batches: Iterator[Batch | None] = itertools.repeat(None)
            if trains_alphas:
                val_batches = stack.enter_context(contextlib.closing(iter(parts.val_loader)))
            yield lambda rate, stop: parts.stepper(next(train_batches), next(val_batches), rate, stop)

    def outcome(self, number: int) -> SearchOutcome:
        """How the search ended, by a signal or none (0)."""
        progress, file = self.progress, self.path / GENOTYPE_NAME
        found = progress.best_epoch > 0
        return SearchOutcome(
            folder=self.path,
            genotype=read_genotype(file) if found else None,
            genotype_file=file if found else None,
            epoch=progress.epoch,
            step=progress.step,
            best_epoch=progress.best_epoch,
            best_accuracy=progress.best_accuracy,
            finished=self.finished,
            ended=progress.ended,
            signal=number,
        )

    def evaluation_is_due(self) -> bool:
        progress = self.progress
        return progress.step_in_epoch == 0 < progress.epoch and progress.verified_step != progress.step

    def evaluate(self, interruption: Interruption) -> bool:
        """Validate on all processes; whether a signal came to any."""
        self.unsaved = True
        found = self._accuracy(interruption)
        if found is None:
            return True
        progress = self.progress
        progress.verified_step = progress.step
        values: dict[str, Any] = dict(zip(("loss", "accuracy"), found, strict=True))
        genotype = current_genotype(self.parts.network)
        shares = skip_shares(genotype)
        values |= {f"skip_share_{cell}": share for cell, share in shares.items()}
        if self.parts.latency is not None:
            with torch.no_grad():
                values["latency"] = float(self.parts.latency(self.parts.network))
        every = self.recipe.watch.eigenvalue_epochs
        if every and progress.epoch % every == 0:
            values["eigenvalue"] = self._eigenvalue()
            progress.eigenvalues.append(values["eigenvalue"])
        score = values["accuracy"]
        weight = self.recipe.architecture.latency_weight
        if weight > 0:
            score = -(values["loss"] + weight * values["latency"])
        # Of equals the last, which has seen more.
        improved = progress.best_epoch == 0 or score >= progress.best_score
        if improved:
            progress.best_score, progress.best_epoch = score, progress.epoch
            progress.best_accuracy = values["accuracy"]
        progress.ended = self._reason_to_end(shares)
        if self.group.first:
            self._write(genotype, values, improved)
        return False

    def _accuracy(self, interruption: Interruption) -> tuple[float, float] | None:
        """Mean loss and accuracy on the validation half; None if a process was asked to stop meanwhile."""
        network, loader = self.parts.network, self.parts.test_loader
        self.group.take_first_([*network.buffers()])
        loader.sampler.set_position(0)
        totals = torch.zeros(4, dtype=torch.float64)
        network.eval()
        images = len(loader) * self.recipe.data.batch_size
        try:
            with self.display.verifying(images) as advance, torch.no_grad():
                for batch in loader:
                    pixels, label = self.parts.stepper.prepared(batch)
                    logits = network(pixels)
                    correct = (logits.argmax(1) == label).sum()
                    loss = cross_entropy(logits, label, reduction="sum")
                    totals[:3] += torch.tensor([float(loss), float(correct), len(label)])
                    advance(len(label))
                    if interruption.signal:
                        raise StoppedError
        except StoppedError:
            totals[3] = 1
        finally:
            network.train()
        loss_sum, correct_sum, count, stops = self.group.sum_(totals.to(self.group.device)).tolist()
        return None if stops else (loss_sum / count, correct_sum / count)

    def _eigenvalue(self) -> float:
        loader = self.parts.test_loader
        loader.sampler.set_position(0)
        with contextlib.closing(iter(loader)) as batches:
            batch = self.parts.stepper.prepared(next(batches))
        return dominant_eigenvalue(
            self.parts.network,
            batch,
            optimizer=self.parts.weights,
            steps=self.recipe.watch.eigenvalue_steps,
            seed=self.recipe.run.seed,
            average=self.group.average_,
        )

    def _reason_to_end(self, shares: dict[str, float]) -> str:
        watch, values = self.recipe.watch, self.progress.eigenvalues
        for cell, share in shares.items():
            if share > watch.stop_skip_share:
                return f"{share:.0%} of the {cell} cell are skip connections"
        ratio = watch.stop_eigenvalue_ratio
        if ratio and len(values) > watch.eigenvalue_gap:
            before = abs(values[-1 - watch.eigenvalue_gap])
            if abs(values[-1]) > ratio * before:
                return f"the dominant eigenvalue has grown from {before:.3g} to {abs(values[-1]):.3g}"
        return ""

    def _write(self, genotype: Genotype, values: dict[str, Any], improved: bool) -> None:
        progress, network = self.progress, self.parts.network
        self.checkpoints.save_genotype(genotype, progress.epoch)
        if improved:
            self.checkpoints.save_best(network.state_dict(), genotype, progress.epoch)
        with torch.no_grad():
            weights = {
                cell: [w.tolist() for w in network.operation_weights(reduction=cell == "reduce")]
                for cell in _CELLS
            }
        if self.log is not None:
            self.log.write(
                "validation",
                progress.step,
                epoch=progress.epoch,
                **values,
                genotype=format_genotype(genotype),
                operation_weights=weights,
            )
            if progress.ended:
                self.log.write("ended", progress.step, epoch=progress.epoch, reason=progress.ended)
        if self.recipe.run.drawings and has_matplotlib():
            self._draw(genotype, values, weights)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        self.display.say(f"  validation: {shown}\n  {format_genotype(genotype)}")
        if progress.ended:
            self.display.say(f"the search ends here: {progress.ended}")

    def _draw(
        self, genotype: Genotype, values: dict[str, Any], weights: dict[str, list[list[list[float]]]]
    ) -> None:
        path, epoch = self.path, self.progress.epoch
        title = f"epoch {epoch}, validation accuracy {100 * values['accuracy']:.2f} %"
        lines = read_log(path, "validation")
        epochs = [line["epoch"] for line in lines]
        for kind in ("png", "svg"):
            with atomic_write(path / EPOCHS / f"{epoch}.{kind}") as file:
                drawing.draw_genotype(
                    file, kind, genotype, title=title, weights=(weights["normal"], weights["reduce"])
                )
            for cell in _CELLS:
                history = [line["operation_weights"][cell] for line in lines]
                with atomic_write(path / f"alphas_{cell}.{kind}") as file:
                    drawing.draw_alphas(file, kind, history, epochs, f"{cell} cells")

    def save(self) -> None:
        if self.group.first:
            self.checkpoints.save(self.parts.tensors(), self.progress, self.recipe.run.keep)
