"""The threshold that a weight file carries: from which cosine two embeddings count as one person."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from pocketnet_fast.errors import PocketNetError


@dataclass(frozen=True)
class Calibration:
    """A threshold for one set of weights, and what it was chosen on.

    Attributes:
        threshold: Cosine of the embeddings from which a pair is accepted.
        far: False accept rate asked for.
        measured_far: Part of the pairs of two persons that the threshold accepts; at most ``far``.
        measured_tar: Part of the pairs of one person that it accepts; None if there were none.
        impostor_pairs: Pairs of two persons that it was chosen on.
        genuine_pairs: Pairs of one person that it was measured on.
        dataset: What the pairs were of.
        flip: Whether the embeddings were sums of those of the image and of its mirror image.
        weights_sha256: Of the weights (``models.weights.weights_sha256``); the threshold is of no other ones.
    """

    threshold: float
    far: float
    measured_far: float
    measured_tar: float | None
    impostor_pairs: int
    genuine_pairs: int
    dataset: str
    flip: bool
    weights_sha256: str

    def __str__(self) -> str:
        tar = "" if self.measured_tar is None else f", TAR {100 * self.measured_tar:.2f} %"
        return (
            f"cosine {self.threshold:.4f} for FAR {self.far:g} (FAR {self.measured_far:.3g}{tar} measured on "
            f"{self.impostor_pairs:,} impostor and {self.genuine_pairs:,} genuine pairs of {self.dataset}, "
            f"{'with' if self.flip else 'without'} flip)"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON takes them, ``threshold`` first."""
        return asdict(self)

    @staticmethod
    def from_json(text: str, name: str) -> Calibration:
        """Read what ``json.dumps(as_dict())`` wrote.

        Args:
            text: The JSON.
            name: How errors call the file.

        Raises:
            PocketNetError: If it is no calibration.
        """
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict) or set(content) != {field.name for field in fields(Calibration)}:
            raise PocketNetError(f"{name}: damaged: its calibration has other fields than one has")
        calibration = Calibration(**content)
        if not calibration._is_sound():
            raise PocketNetError(f"{name}: damaged: its calibration has values that none has")
        return calibration

    def _is_sound(self) -> bool:
        rates = [self.far, self.measured_far, *([] if self.measured_tar is None else [self.measured_tar])]
        counts = (self.impostor_pairs, self.genuine_pairs)
        return (
            _is_number(self.threshold)
            and all(_is_number(rate) and 0 <= rate <= 1 for rate in rates)
            and all(type(count) is int and count >= 0 for count in counts)
            and isinstance(self.flip, bool)
            and isinstance(self.dataset, str)
            and isinstance(self.weights_sha256, str)
        )


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
