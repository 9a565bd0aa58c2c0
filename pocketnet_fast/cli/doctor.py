"""``pocketnet doctor``: what is installed, what runs, what is missing and how to get it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
from pathlib import Path
from typing import Any, Final

import typer

from pocketnet_fast.cli.options import JsonOption
from pocketnet_fast.cli.output import print_json, wide_console
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.machine import processor_name

_PACKAGES: Final = ("torch", "numpy", "opencv-python-headless", "safetensors", "typer", "rich")
_OPTIONAL: Final = {
    "matplotlib": "figures of the demo, of benchmarks and of evaluations",
    "scikit-image": "the demo's portraits",
    "cmake": "building the C++ host",
}
_VARIABLES: Final = (
    "PNF_FORCE_ISA",
    "POCKETNET_DETECTOR",
    "POCKETNET_CACHE",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "KMP_AFFINITY",
    "GOMP_CPU_AFFINITY",
    "OMP_WAIT_POLICY",
    "GOMP_SPINCOUNT",
    "KMP_BLOCKTIME",
    "LD_PRELOAD",
)
_REINSTALL: Final = "pip install . in a clone, or reinstall the wheel"
_LIBRARIES: Final = re.compile(
    r"/(libpnf_ops|_C\.|libtorch(_cpu|_cuda)?\.|libc10\.|lib[gi]?omp|libmkl_core|libopenblas)[^/]*$"
)
_OPENMP: Final = re.compile(r"/lib(gomp|iomp5|omp)[-.][^/]*$")


def doctor(
    *,
    as_json: JsonOption = False,
) -> None:
    """Print versions, instruction sets, threads, loaded libraries, and what is missing.

    Exits with 1 if the kernels cannot run. Please add the output to bug reports.

    Example: [bold]pocketnet doctor[/bold]
    """
    missing: list[dict[str, str]] = []
    report: dict[str, Any] = {
        "versions": _versions(missing),
        "cpu": _cpu(),
        "kernels": _kernels(missing),
        "threads": _threads(missing),
        "gpu": _gpu(missing),
        "environment": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "detector": _detector(missing),
        "weights": _weights(missing),
    }
    # Last, when everything above has loaded what it loads.
    report["libraries"] = _libraries(missing)
    report["missing"] = missing
    print_json(report) if as_json else _print(report)
    if "error" in report["kernels"]:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("doctor")(doctor)


def _need(missing: list[dict[str, str]], what: str, how: str) -> None:
    missing.append({"what": what, "how": how})


def _versions(missing: list[dict[str, str]]) -> dict[str, str | None]:
    from pocketnet_fast import __version__

    versions: dict[str, str | None] = {
        "pocketnet_fast": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    for package in (*_PACKAGES, *_OPTIONAL):
        versions[package] = _version(package)
    if versions["opencv-python-headless"] is None:
        # Other builds of OpenCV serve as well.
        found = (_version(name) for name in ("opencv-python", "opencv-contrib-python", "opencv"))
        versions["opencv-python-headless"] = next((version for version in found if version), None)
        if versions["opencv-python-headless"] is None and importlib.util.find_spec("cv2") is None:
            _need(missing, "OpenCV, for reading images", "pip install opencv-python-headless")
    for package, purpose in _OPTIONAL.items():
        if versions[package] is None:
            _need(missing, f"{package}, for {purpose}", f"pip install {package}")
    return versions


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> dict[str, Any]:
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "name": processor_name(),
        "cores": os.cpu_count(),
        "usable": len(affinity(0)) if affinity else os.cpu_count(),
    }


def _kernels(missing: list[dict[str, str]]) -> dict[str, Any]:
    from pocketnet_fast.ops import native

    try:
        library = native.library_path()
        found: dict[str, Any] = {"library": str(library), "available": native.available_isas()}
        found["used"] = native.compiled_isa()
        found["bf16"] = native.compiled_isa("bf16")
        found["tiles_denied"] = native.tiles_denied()
    except (ImportError, OSError) as error:
        _need(missing, f"the compiled kernels ({error})", _REINSTALL)
        return {"error": str(error)}
    except RuntimeError as error:
        how = f"unset PNF_FORCE_ISA, or set it to one of {', '.join(found['available'])}"
        _need(missing, f"the instruction set asked for ({error})", how)
        return {**found, "error": str(error)}
    return found


def _threads(missing: list[dict[str, str]]) -> dict[str, Any]:
    """PyTorch's threads, what the affinity mask and the container's quota allow, and what the kernels use."""
    import torch

    from pocketnet_fast.ops import native

    found = re.search(r"ATen parallel backend: (.+)", torch.__config__.parallel_info())
    threads: dict[str, Any] = {
        "intra_op": torch.get_num_threads(),
        "inter_op": torch.get_num_interop_threads(),
        "backend": found.group(1) if found else None,
    }
    try:
        allowed = native.processors()
    except (ImportError, OSError):
        return threads  # what is missing stands beside the kernels
    threads["affinity"] = allowed["affinity"] or None
    threads["quota"] = allowed["quota"] or None
    threads["kernels"] = native.usable_threads()
    if threads["intra_op"] > allowed["usable"]:
        _need(
            missing,
            f"processors for PyTorch's {threads['intra_op']} threads: this process may use "
            f"{allowed['usable']}, which the fused kernels keep to and PyTorch's own operators do not",
            f"set OMP_NUM_THREADS={allowed['usable']}, or call torch.set_num_threads({allowed['usable']})",
        )
    return threads


def _gpu(missing: list[dict[str, str]]) -> dict[str, Any]:
    """Devices, what runs on them, and whether tiles were measured for them."""
    import torch

    devices = []
    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    found: dict[str, Any] = {"devices": devices, "triton": _version("triton"), "runs": [], "tiles": {}}
    if not devices:
        return found
    if found["triton"] is None:
        _need(missing, "Triton, for the kernels on CUDA", "pip install 'pocketnet_fast[gpu]'")
        return found
    from pocketnet_fast.ops.triton_tuning import cache_file, read_tiles

    found["runs"] = ["inference", "training", "the loss"]
    for name in sorted(set(devices)):
        path = cache_file(name)
        found["tiles"][name] = {"path": str(path), "shapes": len(read_tiles(path, name))}
    return found


def _detector(missing: list[dict[str, str]]) -> dict[str, Any]:
    from pocketnet_fast.faces.detector import DETECTOR_VARIABLE, find_detector
    from pocketnet_fast.models.yunet import load_yunet

    try:
        path = find_detector()
        load_yunet(path)
    except PocketNetError as error:
        named = os.environ.get(DETECTOR_VARIABLE)
        how = f"let {DETECTOR_VARIABLE} name a YuNet, or unset it" if named else _REINSTALL
        _need(missing, f"the face detector: {error}", how)
        return {"path": None, "shipped": False}
    return {"path": None if path is None else str(path), "shipped": path is None}


def _weights(missing: list[dict[str, str]]) -> list[str]:
    from pocketnet_fast.models.registry import PRETRAINED

    if not PRETRAINED:
        _need(missing, "trained weights (none ship with this version)", "pass --weights FILE")
    return sorted(PRETRAINED)


def _libraries(missing: list[dict[str, str]]) -> list[str]:
    """Paths of the native libraries mapped into this process that decide about results and speed."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    paths = {line.split(maxsplit=5)[-1] for line in lines if "/" in line}
    found = sorted(path for path in paths if _LIBRARIES.search(path))
    runtimes = [path for path in found if _OPENMP.search(path)]
    if len(runtimes) > 1:
        _need(
            missing,
            f"a single OpenMP runtime; {len(runtimes)} are loaded and their threads compete",
            "install torch and the packages beside it from one source",
        )
    return found


def _half_precision(kernels: dict[str, Any]) -> str:
    """What ``compile(precision="bf16")`` runs on."""
    from pocketnet_fast.ops.native import multiplies_bf16

    isa = kernels.get("bf16")
    if isa is None:
        return "none"
    if kernels["tiles_denied"]:
        return f"{isa}; the CPU has tile registers (AMX), which the system refuses to this process"
    return isa if multiplies_bf16(isa) else f"{isa}, whose products are of fp32: no faster than fp32"


def _sections(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What is printed of the report, by title."""
    kernels, threads, gpu, detector = (report[name] for name in ("kernels", "threads", "gpu", "detector"))
    tiles = [f"{name}: {found['shapes']} shapes in {found['path']}" for name, found in gpu["tiles"].items()]
    sections = {
        "Versions": report["versions"],
        "CPU": report["cpu"],
        "Kernels": {
            "instruction set used": kernels.get("used", "none"),
            "for bf16": _half_precision(kernels),
            "available": ", ".join(kernels.get("available", [])) or "none",
            "library": kernels.get("library", "none"),
        },
        "Threads": {
            "PyTorch's": f"{threads['intra_op']} in an operator, {threads['inter_op']} between operators",
            "backend": threads["backend"],
            "processors of the affinity mask": threads.get("affinity") or "unknown",
            "processors of the container's quota": threads.get("quota") or "no quota",
            "the fused kernels use": threads.get("kernels", "none"),
        },
        "GPU": {
            "CUDA devices": ", ".join(gpu["devices"]) or "none that torch finds",
            "triton": gpu["triton"],
            "Triton kernels run": ", ".join(gpu["runs"]) or "nothing here",
            "measured tiles": "; ".join(tiles) or "none",
        },
        "Environment": report["environment"],
        "Models": {
            "detector": "the one that ships" if detector["shipped"] else detector["path"] or "none",
            "trained weights": ", ".join(report["weights"]) or "none",
        },
    }
    return {title: rows for title, rows in sections.items() if rows}


def _print(report: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    console = wide_console()
    for title, rows in _sections(report).items():
        table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2))
        for name, value in rows.items():
            table.add_row(name, escape(str("not installed" if value is None else value)))
        console.print(table)
        console.print()
    console.print("[italic]Libraries loaded[/italic]")
    for path in report["libraries"]:
        console.print(f"  {escape(path)}", soft_wrap=True, highlight=False)
    console.print()
    if not report["missing"]:
        console.print("Nothing is missing.")
    for item in report["missing"]:
        console.print(f"[bold]missing:[/bold] {escape(item['what'])}", soft_wrap=True)
        console.print(f"     get: {escape(item['how'])}", soft_wrap=True, highlight=False)
