"""``align_faces`` in plain PyTorch, to test the operator against."""

from __future__ import annotations

import torch
from torch import Tensor


def align_faces_reference(photo: Tensor, matrices: Tensor, side: int) -> Tensor:
    """Warp a photo by similarity transforms, bilinear, 0 outside.

    Args:
        photo: uint8 H,W,3.
        matrices: float64 N,2,3, from the photo to the crops.
        side: The side of the crops.

    Returns:
        float64 N,side,side,3, before rounding.
    """
    height, width = photo.shape[:2]
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    goal = torch.stack((x, y), -1).double()
    # A black border of one pixel, on which everything outside falls.
    bordered = torch.zeros(height + 2, width + 2, 3, dtype=torch.float64)
    bordered[1:-1, 1:-1] = photo
    crops = []
    for matrix in matrices:
        place = (goal - matrix[:, 2]) @ torch.linalg.inv(matrix[:, :2]).T + 1
        corner = place.floor()
        share = (place - corner)[..., None]
        crop = torch.zeros(side, side, 3, dtype=torch.float64)
        for right in (0, 1):
            for below in (0, 1):
                column = (corner[..., 0] + right).clamp(0, width + 1).long()
                row = (corner[..., 1] + below).clamp(0, height + 1).long()
                across = share[..., 0, :] if right else 1 - share[..., 0, :]
                along = share[..., 1, :] if below else 1 - share[..., 1, :]
                crop += across * along * bordered[row, column]
        crops.append(crop)
    return torch.stack(crops) if crops else torch.zeros(0, side, side, 3, dtype=torch.float64)
