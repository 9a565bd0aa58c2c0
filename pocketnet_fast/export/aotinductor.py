"""AOTInductor packages (``.pt2``): compiled ahead of time, run without Python, on the CPU or on CUDA.

What AOTInductor compiles believes that its input is as the example was. Here a package for the CPU checks it
in every host: one of fused kernels by our operator, one of ATen operators by ``_CheckedInput``. A package for
CUDA is checked by ``load_package`` and by ``csrc/hosting``; in another program only where
``AOTI_RUNTIME_CHECK_INPUTS=1`` stands in the environment before the first call, which makes torch compare
dtype, sizes, strides and device. The metadata say which it is, as ``input_checks``.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.export.archive import rewritten, without_folders
from pocketnet_fast.export.check import CHECK_FILE, crop_check, photo_check
from pocketnet_fast.export.source import (
    MAX_ERRORS,
    METADATA_FILE,
    ChannelsLast,
    ExportReport,
    PixelsFirst,
    check_batch,
    check_images,
    checked_error,
    checked_source,
    in_evaluation,
    metadata_of,
)
from pocketnet_fast.files import atomic_write
from pocketnet_fast.models.base import EmbeddingModel

if TYPE_CHECKING:
    from pocketnet_fast.faces.analyzer import FaceAnalyzer

# Of a photo, as operators take it.
_MAX_SIDE: Final = 1 << 20

INPUT_CHECKS: Final = {
    "cpu": "inside: other dtypes and shapes are errors, any strides are taken",
    "cuda": "by the caller; torch checks with AOTI_RUNTIME_CHECK_INPUTS=1 in the environment",
}


class _CheckedInput(nn.Module):
    """Gives a network its input contiguous, and refuses another shape or dtype, in programs of anyone.

    AOTInductor drops assertions about its input and reads it by the strides of the example. The two operators
    here are not compiled: they are called with the tensor as it is. Selecting by a mask of one image's shape
    fails for what cannot be broadcast to it and counts what can; scattering demands the dtype, and as many
    values as the batch has.
    """

    def __init__(self, network: nn.Module, size: tuple[int, int, int], dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network
        self.size = size
        self.dtype = dtype
        self.register_buffer("every", torch.ones(1, *size, dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        """Compute embeddings of N,``size`` images of ``dtype``, of any strides."""
        every = self.get_buffer("every")
        count = x.size(0)
        found = torch.scalar_tensor(torch.masked_select(x, every).size(0), dtype=torch.int64)
        # By way of a value, because an equation of sizes would be solved for the number of images, of which
        # the network's layers may have concluded that it is at least two.
        torch._check((found - count * every.numel()).item() == 0)
        blank = torch.zeros((count, *self.size), dtype=self.dtype, device=every.device)
        out: Tensor = self.network(blank.masked_scatter(every, x))
        return out


class Package:
    """A loaded package; made by ``load_package``.

    Attributes:
        metadata: What the file says of itself.
    """

    def __init__(self, run: Any, metadata: dict[str, Any]) -> None:
        self.metadata = metadata
        self._run = run

    def __call__(self, images: Tensor) -> Any:
        """Compute embeddings.

        Args:
            images: As the metadata state, on the package's device: float32 N,3,112,112 or uint8 N,112,112,3,
                any N, any strides; or of an analyzer's package a photo, uint8 H,W,3.

        Returns:
            float32 N,``embedding_dim``, not L2-normalised; of an analyzer's package boxes, landmarks, scores
            and embeddings, see ``export_torchscript``.

        Raises:
            PocketNetError: Another dtype, shape or device.
        """
        check_batch(images, self.metadata["input"], self.metadata["device"])
        return self._run(images.contiguous())


def export_aotinductor(
    model: nn.Module | FaceAnalyzer,
    path: str | os.PathLike[str],
    *,
    kernels: str = "fused",
    input: str = "float",
    color: str = "rgb",
    device: str = "cpu",
    precision: str = "fp32",
) -> ExportReport:
    """Write a package for ``AOTIModelPackageLoader``.

    A network's takes any batch of up to 65,536 images; a ``FaceAnalyzer``'s takes a photo, uint8 H,W,3 of any
    size, and returns what ``export_torchscript`` says.

    A package holds machine code: it runs on the architecture, and with the torch version, that it was made on
    and for; the metadata name both. The file is loaded again and compared with ``model`` before it appears at
    ``path``, and carries a check of itself (``pocketnet_fast_check.json``, see ``export.check``).

    Args:
        model: A network of this package; evaluation mode is used, the module is left as it was. Or a
            ``FaceAnalyzer``, for the CPU, as ``export_torchscript`` takes it, on fused kernels.
        path: Where to write, ``*.pt2``.
        kernels: ``"fused"``: a PocketNet on our kernels: on the CPU it calls the operator of
            ``libpnf_ops.so``, which the loading program must have loaded; on CUDA the Triton kernels are
            inside, and nothing of ours is needed. ``"aten"``: any network, compiled by Inductor.
        input: ``"float"``: float32 N,3,112,112, normalised by the caller; ``"uint8"``: uint8 N,112,112,3.
        color: Channel order of uint8 images, ``"rgb"`` or ``"bgr"``.
        device: ``"cpu"`` or ``"cuda"``.
        precision: ``"fp32"``; with the fused kernels also ``"bf16"``, and on CUDA ``"tf32"`` or ``"fp16"``.

    Returns:
        A report with the measured error and the metadata written into the file.

    Raises:
        PocketNetError: An unknown option, a model that cannot be exported so, a missing compiler or CUDA
            device, a file that cannot be written, or too large an error.

    Examples:
        >>> report = export_aotinductor(model, "s128.pt2", input="uint8")
        >>> report.error < 1e-4
        True
    """
    from pocketnet_fast.faces.analyzer import FaceAnalyzer

    path = Path(path)
    if path.suffix != ".pt2":
        raise PocketNetError(f"{path}: AOTInductor packages are written as .pt2")
    if isinstance(model, FaceAnalyzer):
        return _export_analyzer(model, path, kernels, input, color, device, precision)
    if device not in ("cpu", "cuda"):
        raise PocketNetError(f"device is {device!r}; expected 'cpu' or 'cuda'")
    source = checked_source(model, kernels, input, color, precision, device)
    if device == "cuda" and not torch.cuda.is_available():
        raise PocketNetError("device is 'cuda', and torch finds no CUDA device")
    with in_evaluation(source), tempfile.TemporaryDirectory(prefix="pocketnet-") as folder:
        metadata = metadata_of(
            source, "aotinductor", kernels, input, color, precision, _needs(kernels, device)
        )
        metadata |= _about_package(device)
        # The exported graph reads its weights where the module has them.
        module = _module(source, kernels, input, color, device, precision)
        package = Path(folder) / "model.pt2"
        batch = torch.export.Dim("images", min=0, max=65536)
        example = check_images(source, input).to(device)
        records = {
            METADATA_FILE: json.dumps(metadata),
            CHECK_FILE: crop_check(source, module, input, color, device),
        }
        _compile(module, example, {0: batch}, package, records)
        runner = load_package(package)
        error = checked_error(
            source, lambda x: runner(x.to(device)).cpu(), input, color, MAX_ERRORS[precision]
        )
        content = package.read_bytes()
    with atomic_write(path) as file:
        file.write(content)
    return ExportReport(path, kernels, error, len(content), metadata)


def _export_analyzer(
    analyzer: FaceAnalyzer, path: Path, kernels: str, input: str, color: str, device: str, precision: str
) -> ExportReport:
    from pocketnet_fast.export.photos import check_options, check_scene, photo_error, photo_metadata

    check_options(analyzer, kernels, input, color, precision)
    if device != "cpu":
        raise PocketNetError(f"device is {device!r}; analyzers are exported for 'cpu'")
    if kernels != "fused":
        raise PocketNetError(
            f"kernels is {kernels!r}; in a package, networks of ATen operators take crops only; as "
            "TorchScript (.pt) they are exported with the detector"
        )
    with tempfile.TemporaryDirectory(prefix="pocketnet-") as folder:
        metadata = photo_metadata(analyzer, "aotinductor", kernels, color, _needs(kernels, device))
        metadata |= _about_package(device)
        package = Path(folder) / "model.pt2"
        sides = {
            axis: torch.export.Dim(name, min=1, max=_MAX_SIDE)
            for axis, name in enumerate(("height", "width"))
        }
        scene = torch.from_numpy(check_scene())
        module = analyzer.as_module(kernels=kernels, color=color)
        records = {METADATA_FILE: json.dumps(metadata), CHECK_FILE: photo_check(module, color)}
        _compile(module, scene, sides, package, records)
        runner = load_package(package)
        error = photo_error(analyzer, runner, color, MAX_ERRORS[metadata["precision"]])
        content = package.read_bytes()
    with atomic_write(path) as file:
        file.write(content)
    return ExportReport(path, kernels, error, len(content), metadata)


def _about_package(device: str) -> dict[str, Any]:
    return {
        "device": device,
        "torch": torch.__version__,
        "architecture": _architecture(device),
        "input_checks": INPUT_CHECKS[device],
    }


def read_package_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the metadata of a package that ``export_aotinductor`` wrote, without running it.

    Raises:
        PocketNetError: The file is no such package.
    """
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith("_metadata.json"):
                    stated = json.loads(archive.read(name))
                    if METADATA_FILE in stated:
                        content = json.loads(stated[METADATA_FILE])
                        if isinstance(content, dict):
                            return content
        problem: Exception | None = None
    except Exception as error:
        # zipfile and zlib raise many unrelated types on damaged files.
        problem = error
    raise PocketNetError(f"{path}: not an AOTInductor package of pocketnet_fast") from problem


def load_package(path: str | os.PathLike[str]) -> Package:
    """Load a package in Python: a callable on the package's device, see ``Package``.

    Raises:
        PocketNetError: The file is no such package, was made for another machine, or cannot be loaded.

    Examples:
        >>> package = load_package("s128.pt2")
        >>> embeddings = package(pixels)
    """
    metadata = read_package_metadata(path)
    try:
        device, architecture = metadata["device"], metadata["architecture"]
        if device == "cpu" and architecture != platform.machine():
            raise PocketNetError(f"{path}: made for {architecture}; this machine is {platform.machine()}")
        tuple(metadata["input"]["shape"]), metadata["input"]["dtype"], metadata["kernels"]
    except (KeyError, TypeError):
        raise PocketNetError(f"{path}: damaged: its {METADATA_FILE} does not describe a network") from None
    if metadata["kernels"] == "fused" and metadata["device"] == "cpu":
        from pocketnet_fast.ops.native import extension

        extension()  # loads the library, which registers the operator that the package calls
    try:
        return Package(torch._inductor.aoti_load_package(os.fspath(path)), metadata)
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise PocketNetError(f"{path}: cannot be loaded: {reason}") from None


def _needs(kernels: str, device: str) -> str:
    if kernels == "fused" and device == "cpu":
        return "LibTorch, and libpnf_ops.so of pocketnet_fast"
    return "LibTorch alone" if device == "cpu" else "LibTorch for CUDA"


def _architecture(device: str) -> str:
    if device == "cuda":
        major, minor = torch.cuda.get_device_capability()
        return f"sm_{major}{minor}"
    return platform.machine()


def _module(
    source: EmbeddingModel, kernels: str, input: str, color: str, device: str, precision: str
) -> nn.Module:
    if kernels == "fused":
        from pocketnet_fast.lowering.compiled import compile
        from pocketnet_fast.lowering.compiled_cuda import CompiledCudaModel

        compiled = compile(source, device=device, precision=precision, color=color)
        if isinstance(compiled, CompiledCudaModel):
            compiled.graphs = False
        return compiled
    import copy

    network = copy.deepcopy(source)
    module: nn.Module = PixelsFirst(network, color) if input == "uint8" else ChannelsLast(network)
    if device == "cpu":
        height, width = source.input_spec.size
        pixels = input == "uint8"
        size = (height, width, 3) if pixels else (3, height, width)
        module = _CheckedInput(module, size, torch.uint8 if pixels else torch.float32)
    return module.to(device).eval()


def _without_traces(name: str, content: bytes) -> bytes:
    """Take out of a member what the machine that compiled it left there."""
    if name.endswith(".cpp"):
        return b"// Compiled into the library beside this file.\n"
    if name.endswith("_metadata.json"):
        # The code starts on any CPU of the architecture; torch would warn of every other.
        stated = {key: value for key, value in json.loads(content).items() if key != "AOTI_CPU_ISA"}
        return json.dumps(stated).encode()
    return without_folders(content) if name.endswith((".so", ".cubin")) else content


def _compile(
    module: nn.Module, example: Tensor, any_size: dict[int, Any], package: Path, records: dict[str, str]
) -> None:
    configs: dict[str, Any] = {"aot_inductor.metadata": records}
    # Code for the CPU of this machine would not start on an older one. Older torch has no say in the first.
    portable = {"cpp.march": "", "cpp.simdlen": 1}
    known = torch._inductor.config.get_config_copy()
    configs |= {key: value for key, value in portable.items() if key in known}
    # Otherwise nothing and one are taken to be other cases than many, and refused when the package runs.
    any_count = torch.fx.experimental._config.patch(  # type: ignore[attr-defined]
        backed_size_oblivious=True
    )
    try:
        with warnings.catch_warnings(), torch.no_grad(), any_count:
            warnings.simplefilter("ignore", FutureWarning)
            exported = torch.export.export(module, (example,), dynamic_shapes=(any_size,))
            torch._inductor.aoti_compile_and_package(
                exported, package_path=str(package), inductor_configs=configs
            )
    except torch._inductor.exc.InductorError as error:
        reason = str(error).strip().partition("\n")[0]
        raise PocketNetError(
            f"Inductor cannot compile the network (is there a C++ compiler?): {reason}"
        ) from None
    package.write_bytes(rewritten(package.read_bytes(), _without_traces))
