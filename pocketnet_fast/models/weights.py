"""Weight files: reading and writing state dicts, with every mismatch named."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.models.calibration import Calibration

ModelT = TypeVar("ModelT", bound=nn.Module)

_TORCH_SUFFIXES = (".pth", ".pt", ".ckpt")
_CONTAINERS = ("state_dict", "model_state_dict", "state_dict_backbone", "backbone", "model")
_LISTED = 5
_HASH_KEY = "weights_sha256"
_CALIBRATION_KEY = "calibration"


def load_weights(model: ModelT, path: str | os.PathLike[str]) -> ModelT:
    """Load a checkpoint into a model; on any error the model is left as it was.

    Args:
        model: The network that receives the weights. Its ``weights_source`` becomes the path, its
            ``calibration`` the file's, or None.
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
    state, metadata = _read(path)
    target = model.state_dict()
    _check(state, target, path)
    calibration = None
    if _CALIBRATION_KEY in metadata:
        calibration = Calibration.from_json(metadata[_CALIBRATION_KEY], str(path))
        # The threshold was measured in single precision, whatever the file's and the model's.
        single = {name: t.float() if t.is_floating_point() else t for name, t in state.items()}
        if calibration.weights_sha256 != _sha256(single):
            raise PocketNetError(f"{path}: its calibration belongs to other weights; calibrate these again")
    with torch.no_grad():
        for name, tensor in state.items():
            target[name].copy_(tensor)
    model.weights_source = str(path)  # type: ignore[assignment]
    model.calibration = calibration  # type: ignore[assignment]
    return model


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors as they are stored, and the metadata, of which a .pth file has none."""
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in _TORCH_SUFFIXES:
        return _read_torch(path), {}
    raise PocketNetError(f"{path}: unknown kind of weight file; expected .safetensors or .pth")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError) as error:
        raise PocketNetError(f"{path}: damaged or not a safetensors file: {error}") from None
    if _HASH_KEY in metadata and metadata[_HASH_KEY] != _sha256(state):
        raise PocketNetError(f"{path}: damaged: the tensors do not match the SHA-256 written with them")
    return state, metadata


def is_torchscript(path: Path) -> bool:
    """Whether this is a TorchScript file, of this package or another, and so no file of plain weights."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def _read_torch(path: Path) -> dict[str, Tensor]:
    if is_torchscript(path):
        raise PocketNetError(f"{path}: a TorchScript file, which runs as it is; expected a file of weights")
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


def current_calibration(model: nn.Module) -> Calibration | None:
    """Return the model's calibration unless its weights have changed since, by training for example."""
    calibration: Calibration | None = getattr(model, "calibration", None)
    if calibration is None or calibration.weights_sha256 != weights_sha256(model):
        return None
    return calibration


def _metadata(model: nn.Module) -> dict[str, str]:
    from pocketnet_fast import __version__

    metadata = {"format": "pt", "pocketnet_fast": __version__}
    for name in ("model_name", "embedding_dim", "genotype", "channels", "layers"):
        if hasattr(model, name):
            metadata[name] = str(getattr(model, name))
    spec: Any = getattr(model, "input_spec", None)
    if spec is not None:
        metadata["input_spec"] = json.dumps(asdict(spec))
    return metadata


def save_weights(model: nn.Module, path: str | os.PathLike[str], *, half: bool = False) -> None:
    """Write a model's weights as ``.safetensors``; the path never holds a part of one.

    The metadata carry the architecture, the input normalisation, the package version, ``weights_sha256``,
    which ``load_weights`` verifies, and the calibration if it is still of these weights.

    Args:
        model: The network.
        path: The file.
        half: Store kernels and matrices in half precision, which changes the weights: the calibration is then
            left out. Vectors (slopes, biases, the moments of batch normalisation) stay as they are, as they
            are few and some span more than half precision does.

    Raises:
        PocketNetError: If the path does not end in ``.safetensors`` or cannot be written, or a weight is too
            large for half precision.
    """
    path = Path(path)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    metadata = _metadata(model)
    calibration = None if half else current_calibration(model)
    if calibration is not None:
        metadata[_CALIBRATION_KEY] = json.dumps(calibration.as_dict())
    _write(path, {name: _halved(name, t) for name, t in state.items()} if half else state, metadata)


def save_calibrated(
    source: str | os.PathLike[str], path: str | os.PathLike[str], model: nn.Module, calibration: Calibration
) -> None:
    """Write a weight file again, with a calibration; the tensors keep their stored precision.

    Args:
        source: The file that ``model`` was loaded from; its metadata are kept.
        path: The ``.safetensors`` file to write; may be ``source``, which it replaces.
        model: The network of the calibration.
        calibration: What to write.

    Raises:
        PocketNetError: If ``source`` cannot be read, or ``path`` is no ``.safetensors`` or cannot be written.
    """
    state, metadata = _read(Path(source))
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    calibrated = {_CALIBRATION_KEY: json.dumps(calibration.as_dict())}
    _write(Path(path), state, _metadata(model) | metadata | calibrated)


def _halved(name: str, tensor: Tensor) -> Tensor:
    if tensor.dtype != torch.float32 or tensor.dim() < 2:
        return tensor
    half = tensor.half()
    if not torch.equal(half.isfinite(), tensor.isfinite()):
        raise PocketNetError(f"{name} holds values beyond 65504, which half precision cannot express")
    return half


def _write(path: Path, state: dict[str, Tensor], metadata: dict[str, str]) -> None:
    from safetensors.torch import save

    if path.suffix != ".safetensors":
        raise PocketNetError(f"{path}: weights are written as .safetensors")
    content = save(state, metadata | {_HASH_KEY: _sha256(state)})
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
