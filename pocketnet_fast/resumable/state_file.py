"""A file of tensors and text that says by a SHA-256 of its own whether it is whole."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.files import atomic_write


def write_state(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors, on any device, and text; "format" among the latter says of what kind the file is.

    Raises:
        PocketNetError: It cannot be written.
    """
    from safetensors.torch import save

    saved = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    text = {**metadata, "sha256": _state_sha256(saved, metadata)}
    with atomic_write(path) as file:
        file.write(save(saved, text))


def read_state(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what ``write_state`` wrote.

    Args:
        path: The file.
        kind: Its "format".

    Raises:
        PocketNetError: It is damaged or of another format.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError) as error:
        raise PocketNetError(f"{path} is damaged: {error}") from None
    if metadata.get("format") != kind:
        raise PocketNetError(f"{path} is no state file of this version ({metadata.get('format')})")
    if metadata.get("sha256") != _state_sha256(tensors, metadata):
        raise PocketNetError(f"{path} is damaged: its content does not match its SHA-256")
    return tensors, metadata


def _state_sha256(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    for key in sorted(set(metadata) - {"sha256"}):
        digest.update(f"{key} {metadata[key]}\n".encode())
    return digest.hexdigest()
