"""The operator that cuts aligned crops out of a photo, against bilinear sampling in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pocketnet_fast.data.alignment import TEMPLATE, similarity_transform
from pocketnet_fast.ops.align_faces import align_faces
from pocketnet_fast.ops.align_faces.reference import align_faces_reference

# Half a grey value of rounding, and places rounded to 1/1024 of a pixel in both directions.
ERROR = 0.5 + 256 / 1024 + 1e-6


def photo(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def landmarks(scale: float, angle: float, x: float, y: float) -> np.ndarray:
    turn = scale * np.array(((np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))))
    return (TEMPLATE - TEMPLATE.mean(0)) @ turn.T + (x, y)


@pytest.mark.parametrize("side", [1, 7, 112, 200])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (37, 91), (250, 250)])
def test_against_the_reference(height: int, width: int, side: int) -> None:
    image = photo(height, width)
    places = np.stack(
        [
            landmarks(1.0, 0.0, width / 2, height / 2),
            landmarks(0.3, 2.5, width / 3, height / 2),
            landmarks(2.7, -0.4, 0, height),
        ]
    )
    matrices = np.stack([similarity_transform(points, TEMPLATE * (side / 112)) for points in places])
    found = align_faces(image, torch.from_numpy(places), side)
    assert found.shape == (3, side, side, 3)
    expected = align_faces_reference(image, torch.from_numpy(matrices), side)
    assert float((found.double() - expected).abs().max()) <= ERROR


def test_strides_and_no_face() -> None:
    image = photo(50, 60)
    places = torch.from_numpy(landmarks(0.4, 0.2, 30, 25))[None]
    expected = align_faces(image, places)
    wide = torch.zeros(50, 120, 4, dtype=torch.uint8)
    wide[:, ::2, :3] = image
    assert torch.equal(align_faces(wide[:, ::2, :3], places), expected)
    assert torch.equal(align_faces(image, places.mT.contiguous().mT), expected)
    assert align_faces(image, places[:0]).shape == (0, 112, 112, 3)


def test_refusals() -> None:
    image, places = photo(50, 60), torch.from_numpy(TEMPLATE.copy())[None]
    with pytest.raises(RuntimeError, match=r"align_faces: landmarks must be float64 \[N, 5, 2\]"):
        align_faces(image, places.float())
    with pytest.raises(RuntimeError, match=r"align_faces: a photo must be uint8"):
        align_faces(image.float(), places)
    with pytest.raises(RuntimeError, match=r"the side of a crop must lie in 1\.\.4096, got 0"):
        align_faces(image, places, 0)
    with pytest.raises(RuntimeError, match="coincide"):
        align_faces(image, torch.zeros(1, 5, 2, dtype=torch.float64))
    with pytest.raises(RuntimeError, match="finite"):
        align_faces(image, places * float("nan"))


def test_opcheck() -> None:
    places = torch.from_numpy(TEMPLATE.copy())[None]
    torch.library.opcheck(torch.ops.pocketnet_fast.align_faces.default, (photo(20, 30), places, 112))
