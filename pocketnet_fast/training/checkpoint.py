"""A training run's folder: what a resumed run continues from, and weights that other programs read.

::

    recipe.toml                     the resolved recipe
    log.jsonl, tensorboard/         see training.log
    {step}backbone.safetensors      weights in the published key names, for ``load_weights``
    {step}header.safetensors        class centres under the published key "kernel", D x classes
    {step}ema.safetensors           running average of the weights, if the recipe asks for it
    {step}maps.safetensors          projections of feature maps, if they are regressed
    {step}state.safetensors         the optimiser's tensors; progress, and the SHA-256 of the files above

A step's checkpoint exists once its state file does, which is written last; each file appears whole or not at
all. A file that is missing or is not the one that the state names makes the checkpoint damaged, and the one
before it is used. What is random in a step depends on the recipe's seed and the step alone, so that no
generator's state needs to be kept.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from torch import Tensor, nn

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.files import atomic_write
from pocketnet_fast.models.weights import save_weights
from pocketnet_fast.training.recipe import Recipe
from pocketnet_fast.training.state_file import read_state, write_state

RECIPE_NAME: Final = "recipe.toml"
_KINDS: Final = ("backbone", "header", "ema", "maps", "state")
_NAME: Final = re.compile(rf"(\d+)({'|'.join(_KINDS)})\.safetensors")
_TEMPORARY: Final = re.compile(r"\..+\.tmp")
_FORMAT: Final = "pocketnet_fast.training.1"


ProgressT = TypeVar("ProgressT", bound="Progress")


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        step: Steps made, skipped ones included.
        epoch: Whole epochs done.
        step_in_epoch: Steps made of the epoch after those.
        steps_per_epoch: Steps of every epoch.
        images_per_step: Over all processes and accumulated batches.
        skipped: Steps skipped.
        skipped_in_row: Of those, the last ones without a break.
        ema_updates: Updates of the running average.
        verified_step: The step after which was last verified.
        epoch_sums: Sums of the loss and its parts over the steps of this epoch that were not skipped.
        epoch_steps: How many those are.
        epoch_weights: The step after which each epoch ended, from 1.
    """

    steps_per_epoch: int
    images_per_step: int
    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    skipped: int = 0
    skipped_in_row: int = 0
    ema_updates: int = 0
    verified_step: int = -1
    epoch_sums: dict[str, float] = field(default_factory=dict)
    epoch_steps: int = 0
    epoch_weights: dict[int, int] = field(default_factory=dict)

    @classmethod
    def from_json(cls: type[ProgressT], text: str) -> ProgressT:
        """Read what ``json.dumps(asdict(progress))`` wrote."""
        content = json.loads(text)
        content["epoch_weights"] = {int(k): v for k, v in content["epoch_weights"].items()}
        return cls(**content)


@dataclass(frozen=True)
class Contents:
    """What a checkpoint saves, on the CPU or not.

    Attributes:
        backbone: The network.
        kernel: The class centres, D x classes; None without a head.
        ema: The average network, or None.
        optimizer: Tensors by name.
        progress: So far.
        projections: Of feature maps, or None.
    """

    backbone: nn.Module
    kernel: Tensor | None
    ema: nn.Module | None
    optimizer: Mapping[str, Tensor]
    progress: Progress
    projections: nn.Module | None = None


class RunFolder:
    """The folder of one run.

    Args:
        path: The folder; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def holds_run(self) -> bool:
        """Whether a run was started here."""
        return (self.path / RECIPE_NAME).is_file()

    @property
    def is_used(self) -> bool:
        """Whether a run was started here, or files lie here that one would replace."""
        return self.holds_run or any(self._steps(kind) for kind in _KINDS)

    def file(self, step: int, kind: str) -> Path:
        """The path of one file of a step's checkpoint."""
        return self.path / f"{step}{kind}.safetensors"

    def recipe(self) -> Recipe:
        """Read the run's recipe.

        Raises:
            PocketNetError: If there is no run here or its recipe cannot be read.
        """
        path = self.path / RECIPE_NAME
        if not path.is_file():
            raise PocketNetError(f"{self.path} holds no training run ({RECIPE_NAME} is missing)")
        return Recipe.from_toml(path.read_text(encoding="utf-8"), str(path))

    def write_recipe(self, recipe: Recipe) -> None:
        """Save the resolved recipe, making the folder if necessary.

        Raises:
            PocketNetError: If it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PocketNetError(f"{self.path}: cannot be a folder: {error.strerror}") from None
        with atomic_write(self.path / RECIPE_NAME) as file:
            file.write(recipe.to_toml().encode())

    def latest(self) -> tuple[Progress | None, list[str]]:
        """The progress of the newest whole checkpoint, and what is wrong with each newer one."""
        problems: list[str] = []
        for step in sorted(self._steps("state"), reverse=True):
            try:
                return self._checked(step), problems
            except PocketNetError as error:
                problems.append(str(error))
        return None, problems

    def progress(self, step: int) -> Progress:
        """The progress of a checkpoint that ``latest`` found whole."""
        return Progress.from_json(read_state(self.file(step, "state"), _FORMAT)[1]["progress"])

    def optimizer_tensors(self, step: int) -> dict[str, Tensor]:
        """The optimiser's tensors of a checkpoint that ``latest`` found whole."""
        return read_state(self.file(step, "state"), _FORMAT)[0]

    def columns(self, step: int, first: int, end: int) -> Tensor:
        """Classes ``first`` to ``end`` of the saved class centres, D x (end - first)."""
        from safetensors import safe_open

        with safe_open(self.file(step, "header"), framework="pt") as file:
            part: Tensor = file.get_slice("kernel")[:, first:end]
        return part

    def save(self, contents: Contents, recipe: Recipe) -> None:
        """Write the checkpoint of a step, then remove what need not be kept.

        Of a step that has one, the state alone is written again: weights that belong to a whole checkpoint
        are never replaced.

        Raises:
            PocketNetError: If a file cannot be written.
        """
        step = contents.progress.step
        state_path = self.file(step, "state")
        if not state_path.is_file():
            self._save_weights(contents, step)
        files = [self.file(step, kind) for kind in _KINDS[:-1]]
        metadata = {
            "format": _FORMAT,
            "progress": json.dumps(asdict(contents.progress)),
            "files": json.dumps({path.name: _file_sha256(path) for path in files if path.is_file()}),
        }
        write_state(state_path, contents.optimizer, metadata)
        self._remove_old(contents.progress, recipe)

    def forget_after(self, step: int) -> None:
        """Remove the files of later steps, and temporary ones that a killed run left."""
        for path in self.path.iterdir():
            match = _NAME.fullmatch(path.name)
            if (match and int(match[1]) > step) or _TEMPORARY.fullmatch(path.name):
                path.unlink()

    def _save_weights(self, contents: Contents, step: int) -> None:
        from safetensors.torch import save

        save_weights(contents.backbone, self.file(step, "backbone"))
        if contents.ema is not None:
            save_weights(contents.ema, self.file(step, "ema"))
        if contents.projections is not None:
            save_weights(contents.projections, self.file(step, "maps"))
        if contents.kernel is not None:
            with atomic_write(self.file(step, "header")) as file:
                file.write(save({"kernel": contents.kernel.detach().cpu().contiguous()}, {"format": "pt"}))

    def _remove_old(self, progress: Progress, recipe: Recipe) -> None:
        kept = sorted(self._steps("state"), reverse=True)[: recipe.run.keep]
        epochs = set(progress.epoch_weights.values()) if recipe.run.keep_epochs else set()
        # The state goes first: without it a step's other files are no checkpoint.
        for kind in reversed(_KINDS):
            for step in self._steps(kind):
                if step not in kept and not (kind in ("backbone", "ema") and step in epochs):
                    self.file(step, kind).unlink(missing_ok=True)

    def _steps(self, kind: str) -> set[int]:
        if not self.path.is_dir():
            return set()
        matches = (_NAME.fullmatch(path.name) for path in self.path.iterdir())
        return {int(match[1]) for match in matches if match and match[2] == kind}

    def _checked(self, step: int) -> Progress:
        metadata = read_state(self.file(step, "state"), _FORMAT)[1]
        for name, digest in json.loads(metadata["files"]).items():
            path = self.path / name
            if not path.is_file():
                raise PocketNetError(f"{path} is missing")
            if _file_sha256(path) != digest:
                raise PocketNetError(
                    f"{path} is damaged: its SHA-256 is not the one that its state file names"
                )
        return Progress.from_json(metadata["progress"])


def epoch_weights(folder: Path) -> dict[int, Path]:
    """The backbone's weights after each epoch of a run, by epoch from 1.

    A folder without a recipe is read as the published code writes it: one ``{step}backbone.pth`` after each
    epoch, so that the step is the epoch's multiple of the first.

    Raises:
        PocketNetError: If the folder holds no weights of epochs.
    """
    run = RunFolder(folder)
    if run.holds_run:
        progress, problems = run.latest()
        if progress is None:
            raise PocketNetError(f"{folder} holds no checkpoint" + "".join(f"; {text}" for text in problems))
        files = {epoch: run.file(step, "backbone") for epoch, step in progress.epoch_weights.items()}
        return {epoch: path for epoch, path in files.items() if path.is_file()}
    steps = {}
    for path in folder.iterdir():
        match = re.fullmatch(r"(\d+)backbone\.(pth|safetensors)", path.name)
        if match and int(match[1]) > 0:
            steps[int(match[1])] = path
    if not steps:
        raise PocketNetError(f"{folder} holds neither a training run nor files named STEPbackbone.pth")
    unit = min(steps)
    odd = [path.name for step, path in steps.items() if step % unit]
    if odd:
        raise PocketNetError(f"{folder}: {odd[0]} was not written at the end of an epoch of {unit} steps")
    return {step // unit: path for step, path in sorted(steps.items())}


def newest_weights(folder: Path) -> Path:
    """The newest weights of a run: the running average if the run keeps one, else the backbone's.

    A folder without a recipe is read as the published code writes it; see ``epoch_weights``.

    Raises:
        PocketNetError: If the folder holds no whole checkpoint.
    """
    if (folder / "genotype.json").is_file():
        raise PocketNetError(
            f"{folder} holds a search, whose network has no weights of its own; train what it found: "
            f"pocketnet train --genotype {folder / 'genotype.json'}"
        )
    run = RunFolder(folder)
    if not run.holds_run:
        files = epoch_weights(folder)
        return files[max(files)]
    progress, problems = run.latest()
    if progress is None:
        raise PocketNetError(f"{folder} holds no checkpoint yet" + "".join(f"; {text}" for text in problems))
    average = run.file(progress.step, "ema")
    return average if average.is_file() else run.file(progress.step, "backbone")


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
