"""Files of weights as people have them: read as nothing but tensors, and freed of wrappers and prefixes."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from pocketnet_fast.errors import PocketNetError

TORCH_SUFFIXES: Final = (".pth", ".pt", ".ckpt", ".bin", ".pth.tar")
_EXPORTED: Final = {".pt2": "an AOTInductor package"}
# What training code keeps a state dict under, from the most to the least telling.
_WRAPPERS: Final = (
    "state_dict",
    "model_state_dict",
    "net_state_dict",
    "state_dict_backbone",
    "backbone",
    "model",
    "net",
)
# Left by torch.compile and by data parallelism around any part of a network.
_SHELLS: Final = ("_orig_mod.", "module.")
# The network's place in a larger module, whose other parts are no part of the network.
_PLACES: Final = ("backbone.", "model.")
_MAX_DEPTH: Final = 4
_HEAD: Final = 1024
_LFS: Final = b"version https://git-lfs.github.com/spec/"
_MARKUP: Final = (b"<!doctype html", b"<html", b"<?xml", b"<head")
# Others can be stored (of four bits, quantised, complex), and no network here has weights of them.
_DTYPES: Final = (
    *(torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
_SAVE_ALONE: Final = "save its state dict alone: torch.save(model.state_dict(), FILE)"


@dataclass(frozen=True)
class CheckpointFile:
    """What a file of weights holds.

    Attributes:
        path: Where it lies.
        state: The network's tensors as they are stored, under the names that the network gives them.
        metadata: The text that a ``.safetensors`` file carries; files of other kinds have none.
    """

    path: Path
    state: dict[str, Tensor]
    metadata: dict[str, str]


def read_checkpoint(
    path: Path, verify: Callable[[dict[str, Tensor], Mapping[str, str]], None] = lambda state, metadata: None
) -> CheckpointFile:
    """Read the tensors of a file, and nothing else of it.

    Keys lose the prefixes ``_orig_mod.`` and ``module.``; where some have ``backbone.`` or ``model.``, those
    are the network, and the others are left out. A state dict is found under the usual keys of a training
    checkpoint, such as ``state_dict`` or ``model``, if under one of them alone.

    Args:
        path: ``.safetensors``, or one of ``TORCH_SUFFIXES``, read with ``weights_only``.
        verify: Called with tensors and metadata as they are stored.

    Raises:
        PocketNetError: The file is absent, of another kind or damaged, it holds anything but tensors,
            or if it is not clear which of them are the network's.
    """
    if not path.is_file():
        raise PocketNetError(f"{path}: no such weight file")
    _check_kind(path)
    metadata: dict[str, str] = {}
    if path.suffix == ".safetensors":
        content, metadata = read_safetensors(path)
        verify(content, metadata)
    else:
        content = _state_dict(_read_torch(path), path)
    _check_dense(content, path)
    return CheckpointFile(path, _unprefixed(content, path), metadata)


def is_torchscript(path: Path) -> bool:
    """Whether this is a TorchScript file, of this package or another, and so no file of plain weights."""
    if not path.is_file():
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any("/code/" in name for name in archive.namelist())
    except Exception:
        # No archive, or a damaged one, on which zipfile raises many unrelated types: who reads it says so.
        return False


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a ``.safetensors`` file.

    Raises:
        PocketNetError: It is damaged or none.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            return state, dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise PocketNetError(f"{path}: damaged or not a safetensors file: {_line(error)}") from None


def _check_kind(path: Path) -> None:
    known = path.suffix == ".safetensors" or path.name.endswith(TORCH_SUFFIXES)
    if path.suffix in _EXPORTED:
        raise PocketNetError(
            f"{path}: {_EXPORTED[path.suffix]}, which other programs run; expected the weights it was made of"
        )
    if not known:
        raise PocketNetError(
            f"{path}: unknown kind of weight file; expected .safetensors or {', '.join(TORCH_SUFFIXES)}"
        )
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head:
        raise PocketNetError(f"{path}: damaged: the file is empty")
    if head.startswith(_LFS):
        raise PocketNetError(
            f"{path}: a Git LFS pointer instead of the file; fetch the file with: git lfs pull"
        )
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_MARKUP):
        raise PocketNetError(
            f"{path}: a web page instead of weights, as a download gives that needs a login; "
            "fetch the file itself"
        )


def _read_torch(path: Path) -> Any:
    if is_torchscript(path):
        raise PocketNetError(f"{path}: a TorchScript file, which runs as it is; expected a file of weights")
    try:
        # Of odd pickles torch warns its own developers.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch.load raises many unrelated types on damaged files, and advises to load without a check.
        raise PocketNetError(f"{path}: {_refusal(path, error)}") from None


def _refusal(path: Path, error: Exception) -> str:
    """What is wrong with a file that torch does not read as plain weights, in words of our own."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    if found is None:
        return "damaged or not a file of plain weights"
    named = found[1]
    if named.partition(".")[0] == "numpy":
        return (
            f"refused: it holds numpy values ({named}) beside or instead of tensors; "
            "save the tensors alone: torch.save(checkpoint['state_dict'], FILE)"
        )
    return f"refused: it holds a whole pickled object ({named}), not weights alone; {_SAVE_ALONE}"


def _is_state(value: Any) -> bool:
    """Whether this is a state dict, maybe in another wrapper."""
    return isinstance(value, dict) and any(isinstance(v, Tensor) or _is_state(v) for v in value.values())


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    for _ in range(_MAX_DEPTH):
        wrapped = [key for key in _WRAPPERS if isinstance(content, dict) and _is_state(content.get(key))]
        if len(wrapped) > 1:
            raise PocketNetError(
                f"{path}: holds several state dicts ({', '.join(wrapped)}), and which is the network's is "
                f"not clear; {_SAVE_ALONE}"
            )
        if not wrapped:
            break
        content = content[wrapped[0]]
    if not isinstance(content, dict) or not content:
        raise PocketNetError(f"{path}: holds a {type(content).__name__}; expected a state dict")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise PocketNetError(f"{path}: entry {key!r} is a {type(value).__name__}; expected a state dict")
    return content


def _check_dense(state: dict[str, Tensor], path: Path) -> None:
    for name, tensor in state.items():
        stored = tensor.device.type == "cpu" and tensor.layout == torch.strided and not tensor.is_nested
        if not stored or tensor.dtype not in _DTYPES:
            kind = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
            raise PocketNetError(
                f"{path}: {name} is {kind}, of {tensor.dtype}, on {tensor.device.type!r}; expected strided "
                "tensors of floating-point numbers or integers, with their values"
            )


def _unprefixed(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    for _ in range(_MAX_DEPTH):
        state = _without_shells(state, path)
        places = [place for place in _PLACES if any(name.startswith(place) for name in state)]
        if len(places) > 1:
            raise PocketNetError(
                f"{path}: holds tensors under {' and '.join(places)}, and which are the network's is not "
                f"clear; {_SAVE_ALONE}"
            )
        if not places:
            break
        inside = {name.removeprefix(places[0]): t for name, t in state.items() if name.startswith(places[0])}
        for name in state:
            if name in inside:
                raise PocketNetError(f"{path}: holds {name} with and without the prefix {places[0]!r}")
        state = inside
    return state


def _without_shells(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    bare: dict[str, Tensor] = {}
    for key, tensor in state.items():
        name, outer = key, ""
        while shell := next((s for s in _SHELLS if name.startswith(s)), ""):
            name, outer = name.removeprefix(shell), outer + shell
        if name in bare:
            raise PocketNetError(
                f"{path}: holds {name} with and without the prefix {outer or _shell_of(state, name)!r}"
            )
        bare[name] = tensor
    return bare


def _shell_of(state: dict[str, Tensor], name: str) -> str:
    return next(key for key in state if key != name and key.endswith(name)).removesuffix(name)


def _line(error: Exception) -> str:
    """What an error of a library says, on one line and without terminal codes."""
    text = str(error).strip().partition("\n")[0]
    return "".join(character for character in text if character.isprintable())
