"""The thresholds that weights carry: which one decides, and their JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from calibrations import calibration_of, measured

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.models.calibration import CalibratedPoint, Calibration, far_text


@pytest.mark.parametrize(
    ("far", "text"), [(1e-4, "1e-4"), (3e-3, "3e-3"), (1.25e-5, "1.25e-5"), (0.01, "0.01"), (0.25, "0.25")]
)
def test_rates_are_written_as_people_do(far: float, text: str) -> None:
    assert far_text(far) == text
    assert float(far_text(far)) == far


@pytest.mark.parametrize(
    ("fars", "default"),
    [([1e-5, 1e-3, 1e-4], 1e-4), ([1e-2, 1e-3], 1e-3), ([1e-5, 1e-6], 1e-6), ([0.25], 0.25)],
)
def test_which_decides(fars: list[float], default: float) -> None:
    points = [CalibratedPoint(far, 1 - far, (measured(far),)) for far in fars]
    calibration = Calibration.of(tuple(points), flip=True, weights_sha256="a", all_pairs=True)
    assert [point.far for point in calibration.points] == sorted(fars, reverse=True)
    assert calibration.default_far == default
    assert calibration.threshold == calibration.at().threshold == 1 - default
    for far in fars:
        assert calibration.at(far * (1 + 1e-12)).threshold == 1 - far
        assert calibration.with_default(far).threshold == 1 - far
        assert calibration.with_default(far).points == calibration.points


def test_a_rate_that_is_not_carried() -> None:
    calibration = calibration_of("a", {1e-3: 0.3, 1e-4: 0.4, 1e-5: 0.5})
    assert str(calibration) == "cosine 0.4000 for FAR 1e-4, of embeddings with flip"
    for choose in (calibration.at, calibration.with_default):
        with pytest.raises(
            PocketNetError, match=r"FAR 1e-6 is carried, only for 1e-3, 1e-4, 1e-5; "
        ) as error:
            choose(1e-6)
        assert "`pocketnet calibrate --far 1e-6` measures one" in str(error.value)


def test_json() -> None:
    calibration = calibration_of("a", {1e-3: 0.3, 1e-4: 0.4}, tar=None)
    content = calibration.as_dict()
    assert next(iter(content)) == "threshold"
    assert (content["threshold"], content["default_far"]) == (0.4, 1e-4)
    assert [point["far"] for point in content["points"]] == [1e-3, 1e-4]
    assert Calibration.from_json(json.dumps(content), "a.pt") == calibration


SINGLE: dict[str, Any] = {
    "threshold": 0.304,
    "far": 3e-3,
    "measured_far": 6 / 2100,
    "measured_tar": 0.95,
    "impostor_pairs": 2100,
    "genuine_pairs": 2000,
    "dataset": "lfw",
    "flip": True,
    "weights_sha256": "a",
}


def test_files_with_one_threshold_still_load() -> None:
    calibration = Calibration.from_json(json.dumps(SINGLE), "a.pt")
    (point,) = calibration.points
    (rates,) = point.measured
    assert (calibration.threshold, calibration.default_far, point.far) == (0.304, 3e-3, 3e-3)
    assert (rates.impostor_pairs, rates.false_accepts, rates.far) == (2100, 6, 6 / 2100)
    assert (rates.genuine_pairs, rates.true_accepts, rates.tar) == (2000, 1900, 0.95)
    assert (rates.dataset, rates.far_low, rates.far_high, rates.tar_low) == ("lfw", None, None, None)
    assert (calibration.flip, calibration.weights_sha256, calibration.all_pairs) == (True, "a", False)
    pooled = Calibration.from_json(json.dumps(SINGLE | {"dataset": "people (all pairs)"}), "a.pt")
    assert pooled.all_pairs
    assert Calibration.from_json(json.dumps(calibration.as_dict()), "a.pt") == calibration
    for change in ({"measured_tar": 2}, {"threshold": None}, {"dataset": 3}, {"far": True}):
        with pytest.raises(PocketNetError, match="damaged: its calibration has values that none has"):
            Calibration.from_json(json.dumps(SINGLE | change), "a.pt")


def changed(content: Any, path: tuple[str | int, ...], value: Any) -> Any:
    """A copy of a JSON object with another value at a place; ``...`` takes it away."""
    copy = json.loads(json.dumps(content))
    place = copy
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return copy


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("default_far",), 1e-5, "values that none has"),
        (("default_far",), 1e-3, "two default thresholds"),
        (("threshold",), 0.3, "two default thresholds"),
        (("flip",), 1, "values that none has"),
        (("all_pairs",), None, "values that none has"),
        (("weights_sha256",), None, "values that none has"),
        (("points",), [], "values that none has"),
        (("points",), None, "other fields"),
        (("points", 1), [], "other fields"),
        (("points", 1, "far"), 2, "values that none has"),
        (("points", 1, "far"), 1e-3, "values that none has"),
        (("points", 1, "threshold"), 0.2, "values that none has"),
        (("points", 0, "threshold"), "0.3", "values that none has"),
        (("points", 0, "measured"), [], "values that none has"),
        (("points", 0, "measured"), {}, "other fields"),
        (("points", 0, "measured", 0, "more"), 1, "other fields"),
        (("points", 0, "measured", 0, "far"), None, "values that none has"),
        (("points", 0, "measured", 0, "far_high"), -1, "values that none has"),
        (("points", 0, "measured", 0, "false_accepts"), 10**9, "values that none has"),
        (("points", 0, "measured", 0, "genuine_pairs"), 1.5, "values that none has"),
        (("points", 0, "measured", 0, "dataset"), 3, "values that none has"),
        (("all_pairs",), ..., "other fields"),
    ],
)
def test_what_is_no_calibration(path: tuple[str | int, ...], value: Any, message: str) -> None:
    content = calibration_of("a", {1e-3: 0.3, 1e-4: 0.4}).as_dict()
    with pytest.raises(PocketNetError, match=rf"a\.pt: damaged: its calibration has {message}") as error:
        Calibration.from_json(json.dumps(changed(content, path, value)), "a.pt")
    assert "\n" not in str(error.value)


def test_a_default_that_no_point_has_is_named() -> None:
    calibration = calibration_of("a", {1e-3: 0.3})
    with pytest.raises(PocketNetError, match=r"no threshold for FAR 0\.5"):
        replace(calibration, default_far=0.5).at()
