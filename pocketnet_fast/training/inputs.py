"""Training images as the input of a network."""

from __future__ import annotations

import torch
from torch import Tensor

from pocketnet_fast.models.base import InputSpec


def network_input(images: Tensor, spec: InputSpec) -> Tensor:
    """Normalise a batch as a network was trained to see it.

    Args:
        images: uint8 N,height,width,3, or float N,3,height,width on the scale 0..255 (mixed images); RGB.
        spec: The network's normalisation and channel order.

    Returns:
        float32, N,3,height,width.
    """
    if images.dtype == torch.uint8:
        return spec.normalize(images)
    if spec.color == "bgr":
        images = images.flip(1)
    mean = torch.tensor(spec.mean, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(spec.std, device=images.device).view(1, 3, 1, 1)
    return (images / 255.0 - mean) / std


def float_images(pixels: Tensor) -> Tensor:
    """uint8 N,height,width,3 as float32 N,3,height,width on the scale 0..255, which can be mixed."""
    return pixels.permute(0, 3, 1, 2).to(torch.float32)


def uint8_images(images: Tensor) -> Tensor:
    """The inverse of ``float_images``, rounded; uint8 images stay as they are."""
    if images.dtype == torch.uint8:
        return images
    return images.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
