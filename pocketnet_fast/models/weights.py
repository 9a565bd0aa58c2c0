"""Weight files: reading and writing state dicts, with every mismatch named."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pocketnet_fast.errors import PocketNetError

ModelT = TypeVar("ModelT", bound=nn.Module)

_TORCH_SUFFIXES = (".pth", ".pt", ".ckpt")
_CONTAINERS = ("state_dict", "model_state_dict", "state_dict_backbone", "backbone", "model")
_LISTED = 5
_HASH_KEY = "weights_sha256"


def load_weights(model: ModelT, path: str | os.PathLike[str]) -> ModelT:
    """Load a checkpoint into a model; on any error the model is left as it was.

    Args:
        model: The network that receives the weights. Its ``weights_source`` becomes the path.
        path: A ``.safetensors`` file or a ``.pth`` / ``.pt`` / ``.ckpt`` file, read with ``weights_only``. In
            the latter a leading ``module.`` is stripped from keys, and a state dict kept under a usual key
            such as ``state_dict`` is found. Floating-point tensors of another precision are converted.

    Returns:
        The model.

    Raises:
        PocketNetError: If the file is absent, of another kind or damaged, or if keys are missing, unexpected
            or of another shape; a few are listed, the rest counted.
    """
    path = Path(path)
    if not path.is_file():
        raise PocketNetError(f"{path}: no such weight file")
    if path.suffix == ".safetensors":
        state = _read_safetensors(path)
    elif path.suffix in _TORCH_SUFFIXES:
        state = _read_torch(path)
    else:
        raise PocketNetError(f"{path}: unknown kind of weight file; expected .safetensors or .pth")
    target = model.state_dict()
    _check(state, target, path)
    with torch.no_grad():
        for name, tensor in state.items():
            target[name].copy_(tensor)
    model.weights_source = str(path)  # type: ignore[assignment]
    return model


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError) as error:
        raise PocketNetError(f"{path}: damaged or not a safetensors file: {error}") from None
    if _HASH_KEY in metadata and metadata[_HASH_KEY] != _sha256(state):
        raise PocketNetError(f"{path}: damaged: the tensors do not match the SHA-256 written with them")
    return state


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch.load raises many unrelated types on damaged files; the first line says which.
        reason = str(error).partition("\n")[0]
        raise PocketNetError(f"{path}: damaged or not a file of plain weights: {reason}") from None
    for key in _CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not content:
        raise PocketNetError(f"{path}: holds a {type(content).__name__}; expected a state dict")
    state: dict[str, Tensor] = {}
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise PocketNetError(f"{path}: entry {key!r} is a {type(value).__name__}; expected a state dict")
        name = key.removeprefix("module.")
        if name in state:
            raise PocketNetError(f"{path}: holds {name} with and without the prefix 'module.'")
        state[name] = value
    return state


def _listing(title: str, entries: list[str]) -> str:
    rest = f" and {len(entries) - _LISTED} more" if len(entries) > _LISTED else ""
    return f"{title} ({len(entries)}): {', '.join(entries[:_LISTED])}{rest}"


def _check(state: dict[str, Tensor], target: dict[str, Tensor], path: Path) -> None:
    # The counter has no part in inference, and files older than it lack it.
    missing = [name for name in target if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in target]
    misshapen = [
        f"{name} is {tuple(tensor.shape)}, expected {tuple(target[name].shape)}"
        for name, tensor in state.items()
        if name in target and tensor.shape != target[name].shape
    ]
    mistyped = [
        f"{name} is {tensor.dtype}, expected {target[name].dtype}"
        for name, tensor in state.items()
        if name in target and tensor.is_floating_point() != target[name].is_floating_point()
    ]
    problems = {
        "missing": missing,
        "unexpected": unexpected,
        "wrong shape": misshapen,
        "wrong type": mistyped,
    }
    found = [_listing(title, entries) for title, entries in problems.items() if entries]
    if found:
        raise PocketNetError(f"{path}: does not fit the model; {'; '.join(found)}")


def _sha256(state: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        if name.endswith("num_batches_tracked"):
            continue
        tensor = state[name].detach().cpu().contiguous()
        header = f"{name} {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}\n"
        digest.update(header.encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def weights_sha256(model: nn.Module) -> str:
    """Hash a model's weights: SHA-256 over the sorted keys with dtype, shape and bytes.

    BatchNorm's step counters, which no embedding depends on, are left out, so that a checkpoint with and one
    without them hash alike.
    """
    return _sha256(model.state_dict())


def _metadata(model: nn.Module, state: dict[str, Tensor]) -> dict[str, str]:
    from pocketnet_fast import __version__

    metadata = {"format": "pt", "pocketnet_fast": __version__, _HASH_KEY: _sha256(state)}
    for name in ("model_name", "embedding_dim", "genotype", "channels", "layers"):
        if hasattr(model, name):
            metadata[name] = str(getattr(model, name))
    spec: Any = getattr(model, "input_spec", None)
    if spec is not None:
        metadata["input_spec"] = json.dumps(asdict(spec))
    return metadata


def save_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a model's weights as ``.safetensors``; the path never holds a part of one.

    The metadata carry the architecture, the input normalisation, the package version and ``weights_sha256``,
    which ``load_weights`` verifies.

    Raises:
        PocketNetError: If the path does not end in ``.safetensors`` or cannot be written.
    """
    from safetensors.torch import save

    path = Path(path)
    if path.suffix != ".safetensors":
        raise PocketNetError(f"{path}: weights are written as .safetensors")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    content = save(state, _metadata(model, state))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise PocketNetError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)
