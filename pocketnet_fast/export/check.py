"""The check that an exported file carries of itself: a picture, and what the exported module made of it.

A program that loads the file embeds the picture and compares. Where the processor, a library or the file is
not as it should be, the cosine shows it, before anything is decided by such embeddings.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pocketnet_fast.data.alignment import CROP_SIZE
from pocketnet_fast.data.images import ImageArray, encode_image
from pocketnet_fast.data.synthetic import render_identity
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.models.base import EmbeddingModel
from pocketnet_fast.strict_json import to_json

CHECK_FILE: Final = "pocketnet_fast_check.json"
"""Name of the check inside a file, beside its metadata."""

LEAST_COSINE: Final = 0.999
"""Other instruction sets, and other versions of torch, round otherwise; what is further off is an error."""

# Of an embedding of length 1; what rounding leaves beyond them differs from processor to processor.
_DECIMALS: Final = 6


def check_crop() -> ImageArray:
    """The aligned crop of a check: 112 x 112 x 3 uint8, RGB, a rendered face."""
    return render_identity(0, 0, 0)


def check_photo() -> ImageArray:
    """The photo of a check: 192 x 192 x 3 uint8, RGB, the face of ``check_crop`` on grey."""
    photo = np.full((192, 192, 3), 128, np.uint8)
    photo[40 : 40 + CROP_SIZE, 40 : 40 + CROP_SIZE] = check_crop()
    return photo


def crop_check(
    model: EmbeddingModel, exported: Callable[[Tensor], Tensor], input: str, color: str, device: str = "cpu"
) -> str:
    """The check of a file that takes crops, as JSON.

    Args:
        model: The source, which says how floats are normalised.
        exported: The module that the file holds.
        input: What it takes, "float" or "uint8".
        color: Channel order of its uint8 images.
        device: Where it takes them.
    """
    pixels = torch.from_numpy(check_crop())[None]
    if input == "float":
        images = model.input_spec.normalize(pixels)
    else:
        images = pixels.flip(-1) if color == "bgr" else pixels
    with torch.no_grad():
        embedding = functional.normalize(exported(images.contiguous().to(device)).float())[0]
    return _record(check_crop(), embedding)


def photo_check(exported: Callable[[Tensor], tuple[Tensor, ...]], color: str) -> str:
    """The check of a file that takes photos, as JSON.

    Args:
        exported: The module that the file holds.
        color: Channel order of its photos.

    Raises:
        PocketNetError: It does not find the one face of the photo.
    """
    pixels = torch.from_numpy(check_photo())
    with torch.no_grad():
        *_, embeddings = exported((pixels.flip(-1) if color == "bgr" else pixels).contiguous())
    if len(embeddings) != 1:
        raise PocketNetError(
            f"the analyzer finds {len(embeddings)} faces in the photo of the file's check, which shows one; "
            "nothing was written"
        )
    return _record(check_photo(), embeddings[0])


def _record(picture: ImageArray, embedding: Tensor) -> str:
    content: dict[str, Any] = {
        "image": base64.b64encode(encode_image(picture, ".png")).decode(),
        "embedding": [round(value, _DECIMALS) for value in embedding.cpu().tolist()],
        "least_cosine": LEAST_COSINE,
    }
    return to_json(content)
