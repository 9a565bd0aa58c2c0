"""The demo's portraits: found without a network, and every alteration undone or kept as it should be."""

from __future__ import annotations

import importlib.util
import itertools
import socket
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("cv2")
pytest.importorskip("skimage")
pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "demo", Path(__file__).resolve().parents[1] / "examples" / "demo.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "demo", module)
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def crops(demo: ModuleType) -> dict[str, np.ndarray]:
    def no_network(*arguments: object) -> None:
        raise AssertionError("the demo went to the network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", no_network)
        photos = demo.make_photos()
        return dict(zip(photos, [face.crop for face in demo.find_faces(photos)], strict=True))


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


@pytest.mark.parametrize("person", ["Eileen Collins", "Grace Hopper"])
def test_alterations(crops: dict[str, np.ndarray], person: str) -> None:
    original = crops[f"{person}, original"]
    assert original.shape == (112, 112, 3)
    assert original.std() > 30
    # The detector finds the face again, though not to the pixel.
    assert correlation(crops[f"{person}, rotated"], original) > 0.7
    assert correlation(crops[f"{person}, mirrored"][:, ::-1], original) > 0.7
    assert crops[f"{person}, darker"].mean() == pytest.approx(0.45 * original.mean(), rel=0.1)

    def edges(name: str) -> float:
        return float(np.abs(np.diff(crops[f"{person}, {name}"].astype(int), axis=1)).mean())

    assert edges("blurred") < 0.9 * edges("original")


def test_decisions_are_right(demo: ModuleType, crops: dict[str, np.ndarray]) -> None:
    import pocketnet_fast
    from pocketnet_fast.faces.pipeline import Embedder

    model = pocketnet_fast.create_model(demo.MODEL, pretrained=True)
    assert model.calibration is not None
    embedder = Embedder(model, flip=model.calibration.flip)
    unit = demo.normalized(embedder(np.stack(list(crops.values()))))
    cosines = [float(unit[a] @ unit[b]) for a, b in itertools.combinations(range(len(unit)), 2)]
    pairs = [{"cosine": value, "same": value >= model.calibration.threshold} for value in cosines]
    answer = {"threshold": model.calibration.threshold, "far": model.calibration.default_far, "pairs": pairs}
    summary = demo.summarize(answer, demo.expected_decisions(list(crops)))
    assert demo.false_accepts(summary["far"]) == "which takes 1 of 10,000 pairs of two people for one"
    assert [row["pairs"] for row in summary["groups"].values()] == [20, 25]
    assert [row["right"] for row in summary["groups"].values()] == [20, 25]
    assert summary["groups"]["two people"]["highest"] < summary["groups"]["one person"]["lowest"]
