"""The shapes of the operators that find faces: how many there are only a run tells."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pocketnet_fast.ops.devices import on_one_device
from pocketnet_fast.ops.native import extension


def _register(name: str, values: int, dtype: torch.dtype) -> None:
    """Give an operator its shape: ``values`` of each face."""

    def fake(image: Tensor, program: Tensor, weights: Tensor, *_: Any) -> Tensor:
        on_one_device(name, (image, program, weights))
        faces = torch.library.get_ctx().new_dynamic_size()
        return image.new_empty((faces, values), dtype=dtype)

    torch.library.register_fake(f"pocketnet_fast::{name}", fake)


extension()
_register("detect_faces", 15, torch.float32)
_register("find_faces", 17, torch.float64)
