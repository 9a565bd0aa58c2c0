"""Classification heads with the published parameter ``kernel``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pocketnet_fast.losses.margin_cross_entropy import Implementation, Precision, margin_cross_entropy
from pocketnet_fast.ops.margin_cross_entropy.options import MarginOptions


class CombinedMargin(nn.Module):
    """Class centres with the loss of ``margin_cross_entropy`` (ArcFace, arXiv 1801.07698, eq. 4).

    The state_dict holds ``kernel``, float32 D,classes, as published ``header.pth`` files do; it starts
    normally distributed with standard deviation 0.01.

    Args:
        embedding_dim: D.
        classes: Number of identities.
        scale: Factor of the cosines.
        margins: ``(m1, m2, m3)`` of ``cos(m1 * theta + m2) - m3``.
        easy_margin: Apply margins only where the label's cosine is positive.
        implementation: As in ``margin_cross_entropy``.
        precision: As there.

    Raises:
        PocketNetError: Bad margins or scale.

    Examples:
        >>> head = CombinedMargin(128, classes=1000, margins=(1.0, 0.3, 0.2))
        >>> loss = head(embedding, label)
    """

    def __init__(
        self,
        embedding_dim: int,
        classes: int,
        *,
        scale: float = 64.0,
        margins: tuple[float, float, float] = (1.0, 0.5, 0.0),
        easy_margin: bool = False,
        implementation: Implementation = "auto",
        precision: Precision = "fp32",
    ) -> None:
        super().__init__()
        self.options = MarginOptions(scale, *margins, easy_margin=easy_margin)
        self.implementation: Implementation = implementation
        self.precision: Precision = precision
        self.kernel = nn.Parameter(torch.empty(embedding_dim, classes))
        nn.init.normal_(self.kernel, std=0.01)

    def forward(
        self, embedding: Tensor, label: Tensor, teacher: Tensor | None = None, kd_weight: float = 0.0
    ) -> Tensor:
        """The scalar loss; arguments and errors as ``margin_cross_entropy``."""
        o = self.options
        return margin_cross_entropy(
            embedding,
            self.kernel,
            label,
            scale=o.scale,
            margins=(o.m1, o.m2, o.m3),
            easy_margin=o.easy_margin,
            teacher=teacher,
            kd_weight=kd_weight,
            implementation=self.implementation,
            precision=self.precision,
        )

    def extra_repr(self) -> str:
        """Sizes and options, for ``print``."""
        return f"{self.kernel.shape[0]}, {self.kernel.shape[1]}, {self.options}"


class ArcFace(CombinedMargin):
    """Additive angular margin: ``cos(theta + margin)`` (arXiv 1801.07698, eq. 3).

    Examples:
        >>> head = ArcFace(128, classes=1000)
        >>> loss = head(embedding, label)
    """

    def __init__(
        self,
        embedding_dim: int,
        classes: int,
        *,
        scale: float = 64.0,
        margin: float = 0.5,
        easy_margin: bool = False,
        implementation: Implementation = "auto",
    ) -> None:
        super().__init__(
            embedding_dim,
            classes,
            scale=scale,
            margins=(1.0, margin, 0.0),
            easy_margin=easy_margin,
            implementation=implementation,
        )


class CosFace(CombinedMargin):
    """Additive cosine margin: ``cos(theta) - margin`` (arXiv 1801.09414, eq. 4).

    Examples:
        >>> head = CosFace(128, classes=1000)
        >>> loss = head(embedding, label)
    """

    def __init__(
        self,
        embedding_dim: int,
        classes: int,
        *,
        scale: float = 64.0,
        margin: float = 0.35,
        implementation: Implementation = "auto",
    ) -> None:
        super().__init__(
            embedding_dim, classes, scale=scale, margins=(1.0, 0.0, margin), implementation=implementation
        )
