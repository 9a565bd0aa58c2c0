"""The folder of a run, and how far the run has come: what training and search have in common.

A checkpoint of a step exists once its state file does, which is written last.
"""

from __future__ import annotations

import abc
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final, Generic, Protocol, TypeVar

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.files import atomic_write

RECIPE_NAME: Final = "recipe.toml"
_TEMPORARY: Final = re.compile(r"\..+\.tmp")


class Recipe(Protocol):
    """What a run is told to do, as its folder keeps it."""

    def to_toml(self) -> str:
        """Write it."""
        ...


RecipeT = TypeVar("RecipeT", bound=Recipe)
ProgressT = TypeVar("ProgressT", bound="Progress")


@dataclass
class Position:
    """Where a run stands among its steps.

    Attributes:
        steps_per_epoch: Steps of every epoch.
        images_per_step: Over all processes and accumulated batches.
        step: Steps made, skipped ones included.
        epoch: Whole epochs done.
        step_in_epoch: Steps made of the epoch after those.
    """

    steps_per_epoch: int
    images_per_step: int
    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0


@dataclass
class Progress(Position):
    """How far a run has come.

    Attributes:
        skipped: Steps skipped.
        skipped_in_row: How many were skipped last without a break.
        ema_updates: Updates of the running average.
        verified_step: The step after which was last verified.
        epoch_sums: Sums of the loss and its parts over the steps of this epoch that were not skipped.
        epoch_steps: How many those are.
        epoch_weights: The step after which each epoch ended, from 1.
    """

    skipped: int = 0
    skipped_in_row: int = 0
    ema_updates: int = 0
    verified_step: int = -1
    epoch_sums: dict[str, float] = field(default_factory=dict)
    epoch_steps: int = 0
    epoch_weights: dict[int, int] = field(default_factory=dict)

    @classmethod
    def from_metadata(cls: type[ProgressT], metadata: Mapping[str, str], source: str) -> ProgressT:
        """Read what ``json.dumps(asdict(progress))`` wrote, from the "progress" of a state file.

        Args:
            metadata: The file's.
            source: How messages call it.

        Raises:
            PocketNetError: It is missing, or none of this version.
        """
        try:
            content = json.loads(metadata["progress"])
            content["epoch_weights"] = {int(k): v for k, v in content["epoch_weights"].items()}
            return cls(**content)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise PocketNetError(
                f"{source} states no progress of this version: {type(error).__name__}: {error}"
            ) from None


class Folder(abc.ABC, Generic[RecipeT, ProgressT]):
    """The folder of one run.

    Args:
        path: The folder; it need not exist.
    """

    what: ClassVar[str]
    """How messages call what it holds."""
    kinds: ClassVar[tuple[str, ...]]
    """What a step's files are called after its number; the state comes last."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @abc.abstractmethod
    def parse_recipe(self, text: str, source: str) -> RecipeT:
        """Read a recipe from TOML; ``source`` is how messages call it."""

    @abc.abstractmethod
    def progress(self, step: int) -> ProgressT:
        """The progress of a step's checkpoint.

        Raises:
            PocketNetError: It is missing or damaged.
        """

    @property
    def holds_run(self) -> bool:
        """Whether a run was started here."""
        return (self.path / RECIPE_NAME).is_file()

    @property
    def is_used(self) -> bool:
        """Whether a run was started here, or files lie here that one would replace."""
        return self.holds_run or any(self.steps(kind) for kind in self.kinds)

    def file(self, step: int, kind: str) -> Path:
        """The path of one file of a step's checkpoint."""
        return self.path / f"{step}{kind}.safetensors"

    def recipe(self) -> RecipeT:
        """Read the run's recipe.

        Raises:
            PocketNetError: There is no run here, or its recipe cannot be read.
        """
        path = self.path / RECIPE_NAME
        if not path.is_file():
            raise PocketNetError(f"{self.path} holds no {self.what} ({RECIPE_NAME} is missing)")
        return self.parse_recipe(path.read_text(encoding="utf-8"), str(path))

    def write_recipe(self, recipe: RecipeT) -> None:
        """Save the resolved recipe, making the folder if necessary.

        Raises:
            PocketNetError: It cannot be written.
        """
        try:
            for folder in self.folders():
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PocketNetError(f"{self.path}: cannot be a folder: {error.strerror}") from None
        self.write_text(RECIPE_NAME, recipe.to_toml())

    def latest(self) -> tuple[ProgressT | None, list[str]]:
        """The progress of the newest whole checkpoint, and what is wrong with each newer one."""
        problems: list[str] = []
        for step in sorted(self.steps("state"), reverse=True):
            try:
                return self.progress(step), problems
            except PocketNetError as error:
                problems.append(str(error))
        return None, problems

    def forget_after(self, step: int) -> None:
        """Remove the files of later steps, and temporary ones that a killed run left."""
        # The state goes first: without it a step's other files are no checkpoint.
        for kind in reversed(self.kinds):
            for found in self.steps(kind):
                if found > step:
                    self.file(found, kind).unlink()
        for folder in self.folders():
            for path in folder.iterdir():
                if _TEMPORARY.fullmatch(path.name):
                    path.unlink()

    def folders(self) -> Iterator[Path]:
        """The folder and those in it that it writes files to."""
        yield self.path

    def steps(self, kind: str) -> set[int]:
        """The steps that have a file of this kind."""
        if not self.path.is_dir():
            return set()
        name = re.compile(rf"(\d+){kind}\.safetensors")
        matches = (name.fullmatch(path.name) for path in self.path.iterdir())
        return {int(match[1]) for match in matches if match}

    def write_text(self, name: str, text: str) -> None:
        """Write a file of the folder.

        Raises:
            PocketNetError: It cannot be written.
        """
        with atomic_write(self.path / name) as file:
            file.write(text.encode())
