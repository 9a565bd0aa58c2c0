"""Verification of the network in training, on pairs in files and on synthetic people it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from pocketnet_fast.data.dataset import FaceDataset
from pocketnet_fast.data.synthetic import SyntheticDataset
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.evaluation import verification
from pocketnet_fast.evaluation.pair_files import open_pairs
from pocketnet_fast.evaluation.pairs import VerificationPairs
from pocketnet_fast.evaluation.verification import Crops, Embed, VerificationResult
from pocketnet_fast.models.base import EmbeddingModel
from pocketnet_fast.training.recipe import VerificationRecipe

UNSEEN_IDENTITY: Final = 1_000_000
"""Number of the first synthetic identity that verification takes."""

OnBatch = Callable[[int], None]


class Validator:
    """Opens everything at once, so that what cannot be used is an error before training.

    Args:
        recipe: What to verify on.
        trained_on: The training data, whose synthetic identities must be others.
        device: Where the network is.

    Raises:
        PocketNetError: A file cannot be used, there are more folds than pairs, or a synthetic identity is
            among those trained on.
    """

    def __init__(self, recipe: VerificationRecipe, trained_on: FaceDataset, device: torch.device) -> None:
        self.folds = recipe.folds
        self.device = device
        self._bins: dict[str, VerificationPairs] = {}
        for source in recipe.bins:
            name = Path(source).stem
            if name in self._bins:
                raise PocketNetError(f"{source}: another verification file is called {name} too")
            self._bins[name] = open_pairs(source)
            _check_folds(source, len(self._bins[name]), recipe.folds)
        self._synthetic: tuple[Crops, npt.NDArray[np.int64], npt.NDArray[np.bool_]] | None = None
        if recipe.synthetic_identities:
            _check_folds("verification.pairs", recipe.pairs, recipe.folds)
            if (
                isinstance(trained_on, SyntheticDataset)
                and trained_on.first_identity + trained_on.classes > UNSEEN_IDENTITY
            ):
                raise PocketNetError(
                    f"synthetic identities from {UNSEEN_IDENTITY:,} on are kept for verification"
                )
            unseen = SyntheticDataset(
                recipe.synthetic_identities, recipe.synthetic_images, first_identity=UNSEEN_IDENTITY
            )
            pairs, same = verification.sample_pairs(unseen.labels, recipe.pairs, seed=0)
            crops = np.stack([unseen.image(index) for index in range(len(unseen))])
            self._synthetic = crops, pairs, same

    def __bool__(self) -> bool:
        """Whether there is anything to verify."""
        return bool(self._bins) or self._synthetic is not None

    @property
    def images(self) -> int:
        """How many images one verification embeds."""
        synthetic = 0 if self._synthetic is None else len(self._synthetic[0])
        return synthetic + sum(2 * len(pairs) for pairs in self._bins.values())

    def __call__(
        self, model: EmbeddingModel, on_batch: OnBatch | None = None
    ) -> dict[str, VerificationResult]:
        """Verify; results by the files' stems and "synthetic". The model keeps its mode.

        Args:
            model: The network.
            on_batch: Called with the number of images done in each batch.
        """
        training = {module: module.training for module in model.modules()}
        try:
            embed = _embedding(model, self.device)
            results = {}
            for name, pairs in self._bins.items():
                results[name] = self._judge(
                    embed, pairs.crops(), verification.consecutive_pairs(len(pairs)), pairs.same, on_batch
                )
            if self._synthetic is not None:
                results["synthetic"] = self._judge(embed, *self._synthetic, on_batch)
        finally:
            for module, mode in training.items():
                module.training = mode
        return results

    def _judge(
        self,
        embed: Embed,
        crops: Iterable[Crops],
        pairs: npt.NDArray[np.int64],
        same: npt.NDArray[np.bool_],
        on_batch: OnBatch | None,
    ) -> VerificationResult:
        embeddings, xnorm = verification.embed_both_ways(embed, crops, on_batch=on_batch)
        return verification.judge(
            verification.pair_distances(embeddings, pairs), same, folds=self.folds, xnorm=xnorm
        )


def _check_folds(name: str, pairs: int, folds: int) -> None:
    try:
        verification.fold_ranges(pairs, folds)
    except PocketNetError as error:
        advice = "; set verification.folds" if pairs > 1 else ""
        raise PocketNetError(f"{name}: {error}{advice}") from None


def _embedding(model: EmbeddingModel, device: torch.device) -> Embed:
    if device.type == "cpu":
        from pocketnet_fast.faces.pipeline import Embedder

        return Embedder(model, batch_size=64)
    model.eval()

    def embed(crops: Crops) -> Any:
        pixels = torch.from_numpy(crops).to(device)
        with torch.inference_mode():
            return model(model.input_spec.normalize(pixels)).float().cpu().numpy()

    return embed
