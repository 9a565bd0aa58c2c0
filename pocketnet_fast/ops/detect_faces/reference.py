"""``detect_faces`` in plain PyTorch, in any floating-point precision, to test the kernels against."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

_UNIT: Final = 32
_ALIKE: Final = 0.7
_SHARPNESS: Final = 10.0


@torch.no_grad()
def detect_faces_reference(
    image: Tensor,
    model: nn.Module,
    least_score: float = 0.7,
    most_overlap: float = 0.3,
    most_candidates: int = 1000,
    blend: bool = False,
) -> Tensor:
    """Find the faces in an image.

    Args:
        image: uint8 H,W,3, RGB.
        model: A ``YuNet``, or what gives maps like its; its precision is that of the arithmetic.
        least_score: As ``detect_faces``, like the next ones.
        most_overlap: See above.
        most_candidates: See above.
        blend: See above.

    Returns:
        N,15 as ``detect_faces`` gives them.
    """
    dtype = next(model.parameters()).dtype
    height, width = image.shape[:2]
    pixels = image.flip(-1).permute(2, 0, 1)[None].to(dtype)
    padded = functional.pad(pixels, (0, -width % _UNIT, 0, -height % _UNIT))
    found = torch.cat([_faces_of(one[0], padded.shape[3] // one.shape[3]) for one in model(padded)])
    found = found[found[:, 14] > least_score]
    order = found[:, 14].argsort(descending=True, stable=True)[:most_candidates]
    kept: list[list[Tensor]] = []
    for face in found[order]:
        same = next((seen for seen in kept if _overlap(face, seen[0]) > most_overlap), None)
        if same is None:
            kept.append([face])
        elif blend and _overlap(face, same[0]) > _ALIKE:
            same.append(face)
    return torch.stack([_mean(seen) for seen in kept]) if kept else found[:0]


def _mean(seen: list[Tensor]) -> Tensor:
    """The mean of what places see of a face, the surest first, weighted by powers of their scores."""
    rows = torch.stack(seen)
    weights = (rows[:, 14:] / rows[0, 14]) ** _SHARPNESS
    return torch.cat(((rows[:, :14] * weights).sum(0) / weights.sum(), rows[0, 14:]))


def _faces_of(grid: Tensor, stride: int) -> Tensor:
    """Every place of a map 16,h,w as a face."""
    height, width = grid.shape[1:]
    y, x = (
        axis.flatten() for axis in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    )
    place = torch.stack((x, y), 1).to(grid)
    values = grid.flatten(1).T
    score = (values[:, 0].sigmoid() * values[:, 1].sigmoid()).sqrt()
    sides = values[:, 4:6].exp() * stride
    corner = (place + values[:, 2:4]) * stride - sides / 2
    landmarks = (values[:, 6:].view(-1, 5, 2) + place[:, None]) * stride
    return torch.cat((corner, sides, landmarks.flatten(1), score[:, None]), 1)


def _overlap(one: Tensor, other: Tensor) -> float:
    """Intersection over union of two boxes in whole pixels."""
    (x1, y1, w1, h1), (x2, y2, w2, h2) = ([int(value) for value in face[:4]] for face in (one, other))
    both = w1 * h1 + w2 * h2
    width = min(x1 + w1, x2 + w2) - max(x1, x2)
    height = min(y1 + h1, y2 + h2) - max(y1, y2)
    if both <= 0:
        return 1.0
    return max(width, 0) * max(height, 0) / (both - max(width, 0) * max(height, 0))
