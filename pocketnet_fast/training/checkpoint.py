"""A training run's folder: what a resumed run continues from, and weights that other programs read.

::

    recipe.toml                     the resolved recipe
    log.jsonl, tensorboard/         see resumable.log
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

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from torch import Tensor, nn

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.files import atomic_write
from pocketnet_fast.models.weights import save_weights
from pocketnet_fast.resumable.folder import Folder, Progress
from pocketnet_fast.resumable.state_file import read_state, write_state
from pocketnet_fast.training.recipe import Recipe

_KINDS: Final = ("backbone", "header", "ema", "maps", "state")
_FORMAT: Final = "pocketnet_fast.training.1"


@dataclass(frozen=True)
class Contents:
    """What a checkpoint saves, on the CPU or not.

    Attributes:
        backbone: The network.
        kernel: The class centres, D x classes; None without a head.
        ema: The average network, or None.
        optimizer: Tensors by name.
        progress: So far.
        projections: The projections of feature maps, or None.
    """

    backbone: nn.Module
    kernel: Tensor | None
    ema: nn.Module | None
    optimizer: Mapping[str, Tensor]
    progress: Progress
    projections: nn.Module | None = None


class RunFolder(Folder[Recipe, Progress]):
    """The folder of one training run."""

    what, kinds = "training run", _KINDS

    def parse_recipe(self, text: str, source: str) -> Recipe:
        """Read a recipe from TOML."""
        return Recipe.from_toml(text, source)

    def progress(self, step: int) -> Progress:
        """The progress of a checkpoint whose files are those that its state names."""
        state = self.file(step, "state")
        metadata = read_state(state, _FORMAT)[1]
        for name, digest in _files(metadata, state).items():
            path = self.path / name
            if not path.is_file():
                raise PocketNetError(f"{path} is missing")
            if _file_sha256(path) != digest:
                raise PocketNetError(
                    f"{path} is damaged: its SHA-256 is not the one that its state file names"
                )
        return Progress.from_metadata(metadata, str(state))

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
            PocketNetError: A file cannot be written.
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
        kept = sorted(self.steps("state"), reverse=True)[: recipe.run.keep]
        epochs = set(progress.epoch_weights.values()) if recipe.run.keep_epochs else set()
        # The state goes first: without it a step's other files are no checkpoint.
        for kind in reversed(_KINDS):
            for step in self.steps(kind):
                if step not in kept and not (kind in ("backbone", "ema") and step in epochs):
                    self.file(step, kind).unlink(missing_ok=True)


def epoch_weights(folder: Path) -> dict[int, Path]:
    """The backbone's weights after each epoch of a run, by epoch from 1.

    A folder without a recipe is read as the published code writes it: one ``{step}backbone.pth`` after each
    epoch, so that the step is the epoch's multiple of the first.

    Raises:
        PocketNetError: The folder holds no weights of epochs.
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
        PocketNetError: The folder holds no whole checkpoint.
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


def _files(metadata: Mapping[str, str], state: Path) -> dict[str, str]:
    """The SHA-256 of the files that a state belongs to, by their names in the folder."""
    with contextlib.suppress(KeyError, ValueError, RecursionError):
        files = json.loads(metadata["files"])
        names = [f"{kind}.safetensors" for kind in _KINDS]
        if isinstance(files, dict) and all(name.lstrip("0123456789") in names for name in files):
            return files
    raise PocketNetError(f"{state} names no files of a checkpoint of this version")


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
