"""What a step minimises: the margin softmax, with or without a teacher, or a teacher's embeddings alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pocketnet_fast.losses import ShardedMargin, distillation_loss
from pocketnet_fast.training.recipe import DistillationRecipe

Parts = dict[str, Tensor]


class MarginObjective(nn.Module):
    """Margin softmax, and ``kd_weight`` times the distillation term with a teacher (arXiv 2108.10710).

    Args:
        head: The class centres.
        kd_weight: 0: no teacher.
    """

    def __init__(self, head: ShardedMargin, kd_weight: float = 0.0) -> None:
        super().__init__()
        self.head = head
        self.kd_weight = kd_weight

    def forward(self, embedding: Tensor, label: Tensor, teacher: Tensor | None) -> tuple[Tensor, Parts]:
        """The loss, and what it consists of: "loss", and with a teacher "margin" and "kd" (not weighted).

        Over several processes the loss is that of all samples; "kd" is that of this process's own.

        Args:
            embedding: N,D float32.
            label: int64 N.
            teacher: N,D, or None without one.
        """
        loss = self.head(embedding, label, teacher, self.kd_weight)
        if teacher is None:
            return loss, {"loss": loss.detach()}
        kd = distillation_loss(embedding.detach(), teacher)
        return loss, {"loss": loss.detach(), "margin": loss.detach() - self.kd_weight * kd, "kd": kd}


class FeatureObjective(nn.Module):
    """Regression of the teacher's embeddings, as they are and after L2 normalisation; labels do not matter.

    Args:
        unit_weight: Factor of the mean squared difference of the normalised embeddings.
        feature_weight: Factor of that of the embeddings themselves.
    """

    def __init__(self, unit_weight: float, feature_weight: float) -> None:
        super().__init__()
        self.unit_weight = unit_weight
        self.feature_weight = feature_weight

    def forward(self, embedding: Tensor, label: Tensor, teacher: Tensor | None) -> tuple[Tensor, Parts]:
        """The loss of this process's samples, and its parts "loss", "unit" and "feature" (not weighted)."""
        assert teacher is not None
        unit = distillation_loss(embedding, teacher)
        feature = (embedding - teacher).square().mean()
        loss = self.unit_weight * unit + self.feature_weight * feature
        return loss, {"loss": loss.detach(), "unit": unit.detach(), "feature": feature.detach()}


class RelationalObjective(nn.Module):
    """Regression of the cosines between a batch's images, which need no embeddings of the teacher's length.

    Args:
        weight: Factor of the mean squared difference over the pairs of different images.
    """

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, embedding: Tensor, label: Tensor, teacher: Tensor | None) -> tuple[Tensor, Parts]:
        """The loss of this process's samples, and its parts "loss" and "relation" (not weighted)."""
        assert teacher is not None
        difference = _cosines(embedding) - _cosines(teacher)
        pairs = max(1, len(embedding) * (len(embedding) - 1))
        relation = (difference - torch.diag(difference.diagonal())).square().sum() / pairs
        loss = self.weight * relation
        return loss, {"loss": loss.detach(), "relation": relation.detach()}


def _cosines(rows: Tensor) -> Tensor:
    unit = functional.normalize(rows)
    return unit @ unit.T


def make_objective(head: ShardedMargin | None, distillation: DistillationRecipe, kind: str) -> nn.Module:
    """The objective of a recipe's ``loss.objective``; "features" has no head."""
    if head is None and distillation.match == "relational":
        return RelationalObjective(distillation.unit_weight)
    if head is None:
        return FeatureObjective(distillation.unit_weight, distillation.feature_weight)
    return MarginObjective(head, distillation.weight if kind == "margin_kd" else 0.0)
