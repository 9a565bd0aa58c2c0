"""The thresholds that a weight file carries: from which cosine two embeddings count as one person."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from typing import Any, Final

from pocketnet_fast.errors import PocketNetError

PREFERRED_FAR: Final = 1e-4
"""The false accept rate that decides by default, where a calibration carries it."""


def far_text(far: float) -> str:
    """Write a rate as people do: 1e-4 and 3e-3, but 0.25."""
    if not 0 < far < 0.01:
        return f"{far:g}"
    mantissa, exponent = f"{far:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


@dataclass(frozen=True)
class MeasuredRates:
    """What a threshold does on one data set; intervals hold 95 %.

    Attributes:
        dataset: What the pairs were of.
        impostor_pairs: Pairs of two persons.
        false_accepts: How many of them the threshold accepts.
        far: The part that these are.
        far_low: Lower end of its interval; None where none was measured.
        far_high: Upper end.
        genuine_pairs: Pairs of one person.
        true_accepts: How many of them the threshold accepts.
        tar: The part that these are; None if there were no such pairs.
        tar_low: Lower end of its interval; None where none was measured.
        tar_high: Upper end.
    """

    dataset: str
    impostor_pairs: int
    false_accepts: int
    far: float
    far_low: float | None
    far_high: float | None
    genuine_pairs: int
    true_accepts: int
    tar: float | None
    tar_low: float | None
    tar_high: float | None

    def _is_sound(self) -> bool:
        rates = [self.far, self.far_low, self.far_high, self.tar, self.tar_low, self.tar_high]
        counts = ((self.false_accepts, self.impostor_pairs), (self.true_accepts, self.genuine_pairs))
        return (
            isinstance(self.dataset, str)
            and self.far is not None
            and all(rate is None or _is_rate(rate) for rate in rates)
            and all(type(part) is int and type(whole) is int and 0 <= part <= whole for part, whole in counts)
        )


@dataclass(frozen=True)
class CalibratedPoint:
    """A threshold for a false accept rate.

    Attributes:
        far: The rate asked for.
        threshold: Cosine of the embeddings from which a pair is accepted.
        measured: What it does on each data set that it was chosen on; ``far`` holds on all of them.
    """

    far: float
    threshold: float
    measured: tuple[MeasuredRates, ...]

    def __str__(self) -> str:
        return f"cosine {self.threshold:.4f} for FAR {far_text(self.far)}"

    def _is_sound(self) -> bool:
        return (
            _is_rate(self.far)
            and _is_number(self.threshold)
            and bool(self.measured)
            and all(rates._is_sound() for rates in self.measured)
        )


@dataclass(frozen=True)
class Calibration:
    """The thresholds of one set of weights, and what they were chosen on.

    Attributes:
        points: By falling false accept rate, so by rising threshold; at least one.
        flip: Whether the embeddings were sums of those of the image and of its mirror image.
        weights_sha256: The SHA-256 of the weights (``models.weights.weights_sha256``), which alone they are
            of.
        default_far: The rate of the point that decides where none is asked for.
        all_pairs: Whether all pairs of the data sets' images were compared, or only those that their files
            list.
    """

    points: tuple[CalibratedPoint, ...]
    flip: bool
    weights_sha256: str
    default_far: float
    all_pairs: bool

    @staticmethod
    def of(
        points: tuple[CalibratedPoint, ...], *, flip: bool, weights_sha256: str, all_pairs: bool
    ) -> Calibration:
        """Order the points, and take that of ``PREFERRED_FAR`` as the default, else the strictest.

        Args:
            points: In any order, of different rates; at least one.
            flip: See the class, as for the others.
            weights_sha256: The SHA-256 of the weights.
            all_pairs: Whether all pairs were compared.
        """
        ordered = tuple(sorted(points, key=lambda point: -point.far))
        default = _point(ordered, PREFERRED_FAR) or ordered[-1]
        return Calibration(ordered, flip, weights_sha256, default.far, all_pairs)

    @property
    def threshold(self) -> float:
        """The default point's threshold, a cosine."""
        return self.at().threshold

    @property
    def fars(self) -> str:
        """The rates that are carried, as messages list them."""
        return ", ".join(far_text(point.far) for point in self.points)

    def at(self, far: float | None = None) -> CalibratedPoint:
        """Return the point of a false accept rate.

        Args:
            far: The rate; None for the default's.

        Raises:
            PocketNetError: No threshold was measured for it; the message names those that were.
        """
        wanted = self.default_far if far is None else far
        point = _point(self.points, wanted)
        if point is None:
            raise PocketNetError(
                f"no threshold for FAR {far_text(wanted)} is carried, only for {self.fars}; "
                f"`pocketnet calibrate --far {far_text(wanted)}` measures one"
            )
        return point

    def with_default(self, far: float) -> Calibration:
        """Return the same points with another default.

        Raises:
            PocketNetError: See ``at``.
        """
        return replace(self, default_far=self.at(far).far)

    def __str__(self) -> str:
        return f"{self.at()}, of embeddings {'with' if self.flip else 'without'} flip"

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON takes them, after ``threshold``, the default's.

        It comes first for programs that know of one threshold.
        """
        points = [
            asdict(point) | {"measured": [asdict(rates) for rates in point.measured]} for point in self.points
        ]
        return {"threshold": self.threshold} | asdict(self) | {"points": points}

    @staticmethod
    def from_json(text: str, name: str) -> Calibration:
        """Read what ``json.dumps(as_dict())`` wrote, or what was written when files carried one threshold.

        Args:
            text: The JSON.
            name: How errors call the file.

        Raises:
            PocketNetError: It is no calibration.
        """
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            content = None
        single = isinstance(content, dict) and set(content) == _SINGLE_FIELDS
        calibration = _read_single(content) if single else _read(content)
        if calibration is None:
            raise PocketNetError(f"{name}: damaged: its calibration has other fields than one has")
        if not calibration._is_sound():
            raise PocketNetError(f"{name}: damaged: its calibration has values that none has")
        if isinstance(content, dict) and content["threshold"] != calibration.threshold:
            raise PocketNetError(f"{name}: damaged: its calibration has two default thresholds")
        return calibration

    def _is_sound(self) -> bool:
        return (
            bool(self.points)
            and all(point._is_sound() for point in self.points)
            and all(one.far > other.far for one, other in pairwise(self.points))
            and all(one.threshold <= other.threshold for one, other in pairwise(self.points))
            and isinstance(self.flip, bool)
            and isinstance(self.weights_sha256, str)
            and _is_rate(self.default_far)
            and _point(self.points, self.default_far) is not None
            and isinstance(self.all_pairs, bool)
        )


_ALL_PAIRS: Final = " (all pairs)"
_SINGLE_FIELDS: Final = {
    *("threshold", "far", "measured_far", "measured_tar", "impostor_pairs", "genuine_pairs"),
    *("dataset", "flip", "weights_sha256"),
}


def _point(points: tuple[CalibratedPoint, ...], far: float) -> CalibratedPoint | None:
    return next((point for point in points if math.isclose(point.far, far, rel_tol=1e-9)), None)


def _names(kind: type) -> set[str]:
    return {field.name for field in fields(kind)}


def _read(content: object) -> Calibration | None:
    """The calibration of a JSON object, its values unchecked; None if its fields are others."""
    if not isinstance(content, dict) or set(content) != {"threshold", *_names(Calibration)}:
        return None
    if not isinstance(content["points"], list):
        return None
    points = []
    for point in content["points"]:
        if not isinstance(point, dict) or set(point) != _names(CalibratedPoint):
            return None
        measured = point["measured"]
        if not isinstance(measured, list) or not all(
            isinstance(rates, dict) and set(rates) == _names(MeasuredRates) for rates in measured
        ):
            return None
        points.append(
            CalibratedPoint(
                point["far"], point["threshold"], tuple(MeasuredRates(**rates) for rates in measured)
            )
        )
    return Calibration(
        points=tuple(points),
        **{name: content[name] for name in ("flip", "weights_sha256", "default_far", "all_pairs")},
    )


def _read_single(content: dict[str, Any]) -> Calibration:
    """The calibration of a file with one threshold, which counted nothing and knew of no intervals."""

    def counted(rate: object, pairs: object) -> int:
        return round(rate * pairs) if _is_rate(rate) and type(pairs) is int else 0  # type: ignore[operator]

    measured = MeasuredRates(
        dataset=content["dataset"],
        impostor_pairs=content["impostor_pairs"],
        false_accepts=counted(content["measured_far"], content["impostor_pairs"]),
        far=content["measured_far"],
        far_low=None,
        far_high=None,
        genuine_pairs=content["genuine_pairs"],
        true_accepts=counted(content["measured_tar"], content["genuine_pairs"]),
        tar=content["measured_tar"],
        tar_low=None,
        tar_high=None,
    )
    point = CalibratedPoint(content["far"], content["threshold"], (measured,))
    all_pairs = isinstance(content["dataset"], str) and content["dataset"].endswith(_ALL_PAIRS)
    return Calibration((point,), content["flip"], content["weights_sha256"], content["far"], all_pairs)


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _is_rate(value: object) -> bool:
    return _is_number(value) and 0 <= value <= 1  # type: ignore[operator]
