"""Calibrations for tests, of figures that are made up."""

from __future__ import annotations

from pocketnet_fast.models.calibration import CalibratedPoint, Calibration, MeasuredRates


def measured(far: float, tar: float | None = 0.9, dataset: str = "lfw") -> MeasuredRates:
    """Rates at a threshold of which half the false accept rate asked for was measured."""
    genuine = 0 if tar is None else 1000
    return MeasuredRates(
        dataset=dataset,
        impostor_pairs=10**7,
        false_accepts=round(far / 2 * 10**7),
        far=far / 2,
        far_low=far / 4,
        far_high=far,
        genuine_pairs=genuine,
        true_accepts=0 if tar is None else round(tar * genuine),
        tar=tar,
        tar_low=None if tar is None else 0.9 * tar,
        tar_high=None if tar is None else 1.0,
    )


def calibration_of(
    weights_sha256: str,
    thresholds: dict[float, float],
    *,
    flip: bool = True,
    tar: float | None = 0.9,
    dataset: str = "lfw",
) -> Calibration:
    """A calibration of weights with these thresholds by false accept rate."""
    points = tuple(
        CalibratedPoint(far, threshold, (measured(far, tar, dataset),))
        for far, threshold in thresholds.items()
    )
    return Calibration.of(points, flip=flip, weights_sha256=weights_sha256, all_pairs=True)
