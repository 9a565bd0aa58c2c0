"""Weight files that ship inside the package, each known by its SHA-256."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pocketnet_fast.errors import PocketNetError

_FOLDER: Final = Path(__file__).parent / "pretrained"


@dataclass(frozen=True)
class ShippedFile:
    """A weight file of the package.

    Attributes:
        path: Relative to the folder ``pretrained`` beside this module.
        sha256: The SHA-256 of the whole file.
        embedding_dim: The embedding length that the weights were trained for; 0: they embed nothing.
    """

    path: str
    sha256: str
    embedding_dim: int = 0


def verified(file: ShippedFile) -> Path:
    """Return where a file lies.

    Raises:
        PocketNetError: It is missing, or not the one that was shipped.
    """
    path = _FOLDER / file.path
    if not path.is_file():
        raise PocketNetError(f"{path}: the pretrained weights are missing from the installation")
    if hashlib.sha256(path.read_bytes()).hexdigest() != file.sha256:
        raise PocketNetError(f"{path}: damaged: its SHA-256 is not the registered one")
    return path
