"""A search's folder: what a resumed search continues from, and what it has found.

::

    recipe.toml                     the resolved recipe
    log.jsonl, tensorboard/         see training.log; "validation" lines hold genotype and alphas of an epoch
    {step}state.safetensors         network, both optimisers, progress: a checkpoint, whole or not at all
    best.safetensors                the network after the best epoch by validation
    genotype.txt, genotype.json     its genotype, for `pocketnet train --genotype`
    epochs/{epoch}.{txt,json,png,svg}    the genotype after each epoch, as text and drawn
    alphas_{normal,reduce}.{png,svg}     the softmax weights over the epochs
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from torch import Tensor

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.files import atomic_write
from pocketnet_fast.models.genotypes import Genotype, format_genotype, genotype_to_json
from pocketnet_fast.search.recipe import SearchRecipe
from pocketnet_fast.training.checkpoint import RECIPE_NAME, Progress
from pocketnet_fast.training.state_file import read_state, write_state

EPOCHS: Final = "epochs"
BEST_NAME: Final = "best.safetensors"
GENOTYPE_NAME: Final = "genotype.json"
_STATE: Final = re.compile(r"(\d+)state\.safetensors")
_TEMPORARY: Final = re.compile(r"\..+\.tmp")
_FORMAT: Final = "pocketnet_fast.search.1"
_BEST_FORMAT: Final = "pocketnet_fast.search.network.1"


@dataclass
class SearchProgress(Progress):
    """How far a search has come.

    Attributes:
        best_score: Of the best epoch so far: the validation half's accuracy, or, where latency counts,
            minus the objective.
        best_accuracy: That epoch's accuracy, in 0..1; negative before the first.
        best_epoch: Its number, from 1.
        eigenvalues: The estimates so far.
        ended: Why the search ended early; empty if it did not.
    """

    best_score: float = 0.0
    best_accuracy: float = -1.0
    best_epoch: int = 0
    eigenvalues: list[float] = field(default_factory=list)
    ended: str = ""


class SearchFolder:
    """The folder of one search.

    Args:
        path: The folder; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def is_used(self) -> bool:
        """Whether a run was started here, or files lie here that one would replace."""
        return (self.path / RECIPE_NAME).is_file() or bool(self._steps())

    def recipe(self) -> SearchRecipe:
        """Read the search's recipe.

        Raises:
            PocketNetError: If there is no search here or its recipe cannot be read.
        """
        path = self.path / RECIPE_NAME
        if not path.is_file():
            raise PocketNetError(f"{self.path} holds no search ({RECIPE_NAME} is missing)")
        return SearchRecipe.from_toml(path.read_text(encoding="utf-8"), str(path))

    def write_recipe(self, recipe: SearchRecipe) -> None:
        """Save the resolved recipe, making the folder if necessary.

        Raises:
            PocketNetError: If it cannot be written.
        """
        try:
            (self.path / EPOCHS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PocketNetError(f"{self.path}: cannot be a folder: {error.strerror}") from None
        self._write(RECIPE_NAME, recipe.to_toml())

    def latest(self) -> tuple[SearchProgress | None, list[str]]:
        """The progress of the newest whole checkpoint, and what is wrong with each newer one."""
        problems: list[str] = []
        for step in sorted(self._steps(), reverse=True):
            try:
                return self.load(step)[1], problems
            except PocketNetError as error:
                problems.append(str(error))
        return None, problems

    def load(self, step: int) -> tuple[dict[str, Tensor], SearchProgress]:
        """The tensors and the progress of a checkpoint.

        Raises:
            PocketNetError: If it is missing or damaged.
        """
        tensors, metadata = read_state(self._state(step), _FORMAT)
        return tensors, SearchProgress.from_json(metadata["progress"])

    def save(self, tensors: Mapping[str, Tensor], progress: SearchProgress, keep: int) -> None:
        """Write a checkpoint, then remove all but the newest ``keep``.

        Raises:
            PocketNetError: If it cannot be written.
        """
        metadata = {"format": _FORMAT, "progress": json.dumps(asdict(progress))}
        write_state(self._state(progress.step), tensors, metadata)
        for step in sorted(self._steps(), reverse=True)[keep:]:
            self._state(step).unlink(missing_ok=True)

    def save_best(self, tensors: Mapping[str, Tensor], genotype: Genotype, epoch: int) -> None:
        """Keep a network and its genotype as the best so far.

        Raises:
            PocketNetError: If a file cannot be written.
        """
        metadata = {"format": _BEST_FORMAT, "epoch": str(epoch), "genotype": format_genotype(genotype)}
        write_state(self.path / BEST_NAME, tensors, metadata)
        self._write("genotype.txt", format_genotype(genotype) + "\n")
        self._write(GENOTYPE_NAME, genotype_to_json(genotype) + "\n")

    def save_genotype(self, genotype: Genotype, epoch: int) -> None:
        """Write the genotype after an epoch.

        Raises:
            PocketNetError: If a file cannot be written.
        """
        self._write(f"{EPOCHS}/{epoch}.txt", format_genotype(genotype) + "\n")
        self._write(f"{EPOCHS}/{epoch}.json", genotype_to_json(genotype) + "\n")

    def forget_after(self, step: int) -> None:
        """Remove the checkpoints of later steps, and temporary files that a killed run left."""
        for found in self._steps():
            if found > step:
                self._state(found).unlink()
        for folder in (self.path, self.path / EPOCHS):
            for path in folder.iterdir():
                if _TEMPORARY.fullmatch(path.name):
                    path.unlink()

    def _write(self, name: str, text: str) -> None:
        with atomic_write(self.path / name) as file:
            file.write(text.encode())

    def _state(self, step: int) -> Path:
        return self.path / f"{step}state.safetensors"

    def _steps(self) -> set[int]:
        if not self.path.is_dir():
            return set()
        matches = (_STATE.fullmatch(path.name) for path in self.path.iterdir())
        return {int(match[1]) for match in matches if match}
