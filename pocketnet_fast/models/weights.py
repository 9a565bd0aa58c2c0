"""Weight files: reading and writing state dicts, with every mismatch named."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.files import atomic_write
from pocketnet_fast.models.calibration import Calibration
from pocketnet_fast.models.checkpoint_file import CheckpointFile, read_checkpoint
from pocketnet_fast.models.identification import identify

ModelT = TypeVar("ModelT", bound=nn.Module)

_LISTED = 5
_HASH_KEY = "weights_sha256"
_CALIBRATION_KEY = "calibration"


def load_weights(model: ModelT, path: str | os.PathLike[str]) -> ModelT:
    """Load a file of weights into a model; on any error the model is left as it was.

    Args:
        model: The network that receives the weights. Its ``weights_source`` becomes the path, its
            ``calibration`` the file's, or None.
        path: A ``.safetensors`` file, or a ``.pth``, ``.pth.tar``, ``.pt``, ``.ckpt`` or ``.bin`` file, read
            with ``weights_only``. The prefixes of torch.compile and of data parallelism are stripped from
            keys, and a state dict is found under the usual keys and prefixes, such as ``state_dict`` or
            ``backbone.``. Floating-point tensors of another precision are converted. MobileFaceNets are read
            from ``.onnx``, too, by the structure of the graph.

    Returns:
        The model.

    Raises:
        PocketNetError: The file is absent, of another kind or damaged, keys are missing, unexpected or
            of another shape (a few are listed, the rest counted, and the network that the file does fit is
            named), or a weight is not finite.

    Examples:
        >>> model = load_weights(create_model("pocketnet_s128"), "295672backbone.pth")
    """
    return load_checkpoint(model, read_weights(path))


def read_weights(path: str | os.PathLike[str]) -> CheckpointFile:
    """Read a file of weights, and compare it with the SHA-256 that it carries if it does.

    Raises:
        PocketNetError: See ``read_checkpoint`` and ``read_onnx_weights``; or its tensors are not those
            that were written.
    """
    path = Path(path)
    if path.suffix == ".onnx":
        # Imported here, as it builds networks, which are loaded from here.
        from pocketnet_fast.models.onnx_weights import read_onnx_weights

        return read_onnx_weights(path)

    def verify(state: dict[str, Tensor], metadata: Mapping[str, str]) -> None:
        if _HASH_KEY in metadata and metadata[_HASH_KEY] != _sha256(state):
            raise PocketNetError(f"{path}: damaged: the tensors do not match the SHA-256 written with them")

    return read_checkpoint(path, verify)


def load_checkpoint(model: ModelT, file: CheckpointFile) -> ModelT:
    """Load into a model what ``read_weights`` read; see ``load_weights``."""
    state, path = file.state, file.path
    target = model.state_dict()
    check_fits(model, file)
    _check_finite(state, path)
    calibration = None
    if _CALIBRATION_KEY in file.metadata:
        calibration = Calibration.from_json(file.metadata[_CALIBRATION_KEY], str(path))
        # The thresholds were measured in single precision, whatever the file's and the model's.
        single = {name: t.float() if t.is_floating_point() else t for name, t in state.items()}
        if calibration.weights_sha256 != _sha256(single):
            raise PocketNetError(f"{path}: its calibration belongs to other weights; calibrate these again")
    with torch.no_grad():
        for name, tensor in state.items():
            target[name].copy_(tensor)
    model.weights_source = str(path)  # type: ignore[assignment]
    model.calibration = calibration  # type: ignore[assignment]
    return model


def _check_finite(state: dict[str, Tensor], path: Path) -> None:
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            continue
        finite = torch.isfinite(tensor.float())
        if not bool(finite.all()):
            count = int(finite.numel() - finite.sum())
            raise PocketNetError(
                f"{path}: {name} holds {count:,} of {finite.numel():,} values that are NaN or infinite; "
                "such weights embed nothing"
            )


def _listing(title: str, entries: list[str]) -> str:
    rest = f" and {len(entries) - _LISTED} more" if len(entries) > _LISTED else ""
    return f"{title} ({len(entries)}): {', '.join(entries[:_LISTED])}{rest}"


def check_fits(model: nn.Module, file: CheckpointFile) -> None:
    """Compare a file's keys, shapes and types with those of a model, which may be on the device "meta".

    Raises:
        PocketNetError: They differ; a few are listed, the rest counted.
    """
    state, target = file.state, model.state_dict()
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
        raise PocketNetError(f"{file.path}: does not fit {_named(model, file)}; {'; '.join(found)}")


def _named(model: nn.Module, file: CheckpointFile) -> str:
    """The model, and which network the file looks like."""
    # Imported here, as it builds networks, which are loaded from here.
    name = getattr(model, "model_name", None)
    likeness = identify(file)
    return f"the model {name or ''}".rstrip() + (f" (it holds {likeness})" if likeness else "")


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

    Examples:
        >>> weights_sha256(model)[:12]  # the same for equal weights, whatever file they came from
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
        PocketNetError: The path does not end in ``.safetensors`` or cannot be written, or a weight is too
            large for half precision.

    Examples:
        >>> save_weights(model, "s128.safetensors", half=True)
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
        PocketNetError: ``source`` cannot be read, or ``path`` is no ``.safetensors`` or cannot be written.

    Examples:
        >>> save_calibrated("s128.safetensors", "calibrated.safetensors", model, calibration)
    """
    file = read_weights(source)
    state = {name: tensor.contiguous() for name, tensor in file.state.items()}
    calibrated = {_CALIBRATION_KEY: json.dumps(calibration.as_dict())}
    _write(Path(path), state, _metadata(model) | file.metadata | calibrated)


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
    with atomic_write(path) as file:
        file.write(content)
