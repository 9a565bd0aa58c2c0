"""The demo's portraits: found without a network, and every alteration undone or kept as it should be."""

from __future__ import annotations

import importlib.util
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
        labels, images = demo.make_crops()
    return dict(zip(labels, images, strict=True))


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(int) - other).mean())


@pytest.mark.parametrize("person", ["Eileen Collins", "Grace Hopper"])
def test_alterations(crops: dict[str, np.ndarray], person: str) -> None:
    original = crops[f"{person}, original"]
    assert original.shape == (112, 112, 3)
    assert original.std() > 30
    assert difference(crops[f"{person}, rotated"], original) < 4
    assert difference(crops[f"{person}, mirrored"][:, ::-1], original) < 15
    assert crops[f"{person}, darker"].mean() == pytest.approx(0.45 * original.mean(), rel=0.02)

    def edges(name: str) -> float:
        return float(np.abs(np.diff(crops[f"{person}, {name}"].astype(int), axis=1)).mean())

    assert edges("blurred") < 0.9 * edges("original")


def test_untrained_embeddings_differ_between_images(demo: ModuleType, crops: dict[str, np.ndarray]) -> None:
    import torch

    model, trained = demo.make_model(np.stack(list(crops.values())))
    with torch.inference_mode():
        pixels = torch.from_numpy(np.stack(list(crops.values())))
        unit = demo.normalized(model(model.input_spec.normalize(pixels)).numpy())
    assert np.isfinite(unit).all()
    if not trained:
        off_diagonal = (unit @ unit.T)[~np.eye(len(unit), dtype=bool)]
        assert off_diagonal.max() < 0.9
