"""A search's folder: what a resumed search continues from, and what it has found.

::

    recipe.toml                     the resolved recipe
    log.jsonl, tensorboard/         see resumable.log; "validation" lines hold genotype and alphas of an epoch
    {step}state.safetensors         network, both optimisers, progress: a checkpoint, whole or not at all
    best.safetensors                the network after the best epoch by validation
    genotype.txt, genotype.json     its genotype, for `pocketnet train --genotype`
    epochs/{epoch}.{txt,json,png,svg}    the genotype after each epoch, as text and drawn
    alphas_{normal,reduce}.{png,svg}     the softmax weights over the epochs
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from torch import Tensor

from pocketnet_fast.models.genotypes import Genotype, format_genotype, genotype_to_json
from pocketnet_fast.resumable.folder import Folder, Progress
from pocketnet_fast.resumable.state_file import read_state, write_state
from pocketnet_fast.search.recipe import SearchRecipe

EPOCHS: Final = "epochs"
BEST_NAME: Final = "best.safetensors"
GENOTYPE_NAME: Final = "genotype.json"
_FORMAT: Final = "pocketnet_fast.search.1"
_BEST_FORMAT: Final = "pocketnet_fast.search.network.1"


@dataclass
class SearchProgress(Progress):
    """How far a search has come.

    Attributes:
        best_score: The score of the best epoch so far: the validation half's accuracy, or, where latency
            counts, minus the objective.
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


class SearchFolder(Folder[SearchRecipe, SearchProgress]):
    """The folder of one search."""

    what, kinds = "search", ("state",)

    def parse_recipe(self, text: str, source: str) -> SearchRecipe:
        """Read a recipe from TOML."""
        return SearchRecipe.from_toml(text, source)

    def progress(self, step: int) -> SearchProgress:
        """The progress of a checkpoint."""
        return self.load(step)[1]

    def folders(self) -> Iterator[Path]:
        """The folder and that of the epochs."""
        yield self.path
        yield self.path / EPOCHS

    def load(self, step: int) -> tuple[dict[str, Tensor], SearchProgress]:
        """The tensors and the progress of a checkpoint.

        Raises:
            PocketNetError: It is missing or damaged.
        """
        path = self.file(step, "state")
        tensors, metadata = read_state(path, _FORMAT)
        return tensors, SearchProgress.from_metadata(metadata, str(path))

    def save(self, tensors: Mapping[str, Tensor], progress: SearchProgress, keep: int) -> None:
        """Write a checkpoint, then remove all but the newest ``keep``.

        Raises:
            PocketNetError: It cannot be written.
        """
        metadata = {"format": _FORMAT, "progress": json.dumps(asdict(progress))}
        write_state(self.file(progress.step, "state"), tensors, metadata)
        for step in sorted(self.steps("state"), reverse=True)[keep:]:
            self.file(step, "state").unlink(missing_ok=True)

    def save_best(self, tensors: Mapping[str, Tensor], genotype: Genotype, epoch: int) -> None:
        """Keep a network and its genotype as the best so far.

        Raises:
            PocketNetError: A file cannot be written.
        """
        metadata = {"format": _BEST_FORMAT, "epoch": str(epoch), "genotype": format_genotype(genotype)}
        write_state(self.path / BEST_NAME, tensors, metadata)
        self.write_text("genotype.txt", format_genotype(genotype) + "\n")
        self.write_text(GENOTYPE_NAME, genotype_to_json(genotype) + "\n")

    def save_genotype(self, genotype: Genotype, epoch: int) -> None:
        """Write the genotype after an epoch.

        Raises:
            PocketNetError: A file cannot be written.
        """
        self.write_text(f"{EPOCHS}/{epoch}.txt", format_genotype(genotype) + "\n")
        self.write_text(f"{EPOCHS}/{epoch}.json", genotype_to_json(genotype) + "\n")
