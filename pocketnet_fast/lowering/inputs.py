"""What a compiled module takes."""

from __future__ import annotations

import torch
from torch import Tensor

from pocketnet_fast.errors import PocketNetError

# How the operators begin what they say of a call; other errors are no fault of the caller.
_TOLD = ("run_plan: ", "instruction set ")


def check_pixels(x: Tensor, height: int, width: int, device: torch.device) -> None:
    """Refuse what is no batch of images for a network of one size on ``device``.

    Raises:
        PocketNetError: Another type, dtype, shape or device; the message names it and what is accepted.
    """
    accepted = f"float32 [N, 3, {height}, {width}], normalised RGB, or uint8 [N, {height}, {width}, 3]"
    if not isinstance(x, Tensor):
        raise PocketNetError(f"input must be a tensor, {accepted}; got {type(x).__name__}")
    shapes = {torch.float32: (3, height, width), torch.uint8: (height, width, 3)}
    if x.dim() != 4 or tuple(x.shape[1:]) != shapes.get(x.dtype):
        found = f"{str(x.dtype).removeprefix('torch.')} {[*x.shape]}"
        raise PocketNetError(f"input must be {accepted}; got {found}")
    if x.device.type != device.type or (x.device.index or 0) != (device.index or 0):
        raise PocketNetError(f"the input is on {x.device} and the module on {device}")


def told(error: RuntimeError) -> PocketNetError | None:
    """What an operator says of its input as the package says it, or None if the error is of another kind."""
    text = str(error).partition("\n")[0]
    return PocketNetError(text) if text.startswith(_TOLD) else None
