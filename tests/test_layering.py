"""Who may import whom, what importing the package costs, and how large functions and files may be."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest

import pocketnet_fast

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "pocketnet_fast"
CSRC = ROOT / "csrc"

# Each room may import those of its own rank and the ranks after it.
PYTHON_ROOMS = [
    {"cli"},
    {"search"},
    {"training"},
    {"resumable", "evaluation", "export", "faces", "gallery"},
    {"losses", "lowering", "data"},
    {"models"},
    {"ops"},
]
MOST_LINES = {"function": 80, "file": 500}
FREE = {
    "errors", "extras", "files", "machine", "cmake", "strict_json", "pictures", "lazy", "waiting",
    "__init__", "_C",
}  # fmt: skip
NATIVE_ROOMS = [{"bindings"}, {"ops", "library", "wasm32"}, {"faces"}, {"plan"}, {"kernels"}]
PUBLIC_HEADERS = {"pocketnet.h"}
# What programs without Python are made of. They meet the rooms above in exported files alone.
HOST_ROOMS = [{"hosting"}, {"images"}]
TORCH = ("#include <torch/", "#include <ATen/", "#include <c10/", "#include <caffe2/")
HEAVY = ["cv2", "matplotlib", "skimage", "onnxruntime", "openvino", "triton", "typer", "rich", "safetensors"]


def level(rooms: list[set[str]], room: str) -> int:
    return next(i for i, names in enumerate(rooms) if room in names)


def imports_of(path: Path, modules: Collection[str] = ()) -> set[str]:
    """The modules that a file imports, within functions, too, and for types.

    Args:
        path: The file.
        modules: What is a module and no name in one.
    """
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            whole = inner if node.module == "pocketnet_fast" else inner & {*modules}
            found |= whole or {node.module}
    return found


def imported_rooms(path: Path) -> set[str]:
    rooms = {name.split(".")[1] for name in imports_of(path) if name.startswith("pocketnet_fast.")}
    return {room for room in rooms if (PACKAGE / room).is_dir()}


def package_modules() -> dict[str, Path]:
    """The files of the package by the names they are imported by, but for its entry, which names others."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    del found["pocketnet_fast"]
    return found


def test_python_rooms() -> None:
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room in FREE:
            continue
        here = level(PYTHON_ROOMS, room)
        for other in imported_rooms(path) - {room}:
            if level(PYTHON_ROOMS, other) < here:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {other}")
    assert not wrong


def test_no_module_imports_itself_by_others() -> None:
    modules = package_modules()
    reached = {name: imports_of(path, modules) & modules.keys() - {name} for name, path in modules.items()}
    # What imports nothing of the rest is no part of a circle, nor is then what imports only that.
    while done := {name for name, others in reached.items() if not others & reached.keys()}:
        for name in done:
            del reached[name]
    assert not reached, {name: sorted(others & reached.keys()) for name, others in reached.items()}


def sources(*patterns: str) -> list[Path]:
    return sorted(path for pattern in patterns for path in ROOT.glob(pattern) if "build" not in path.parts)


def test_functions_and_files_can_be_overlooked() -> None:
    python = sources("pocketnet_fast/**/*.py", "benchmarks/**/*.py", "examples/**/*.py")
    native = sources("csrc/**/*.cpp", "csrc/**/*.inl", "csrc/**/*.h", "server/**/*.cpp", "server/**/*.h")
    long = {}
    for path in python + native:
        name = str(path.relative_to(ROOT))
        lines = len(path.read_text().splitlines())
        if lines > MOST_LINES["file"] and "tests" not in path.parts:
            long[name] = lines
    assert not long, long
    for path in python:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or 0) - node.lineno + 1
                assert lines <= MOST_LINES["function"], f"{path.relative_to(ROOT)}: {node.name} has {lines}"


def test_native_rooms() -> None:
    wrong = []
    for path in sorted(CSRC.rglob("*")):
        room = path.relative_to(CSRC).parts[0]
        if path.suffix not in (".h", ".cpp", ".inl") or room == "tests":
            continue
        rooms = HOST_ROOMS if any(room in names for names in HOST_ROOMS) else NATIVE_ROOMS
        reachable = set().union(*rooms[level(rooms, room) :])
        with_torch = room in ("bindings", "ops", "hosting")
        for line in path.read_text().splitlines():
            included = line.split('"')[1].split("/")[0] if line.startswith('#include "') else None
            elsewhere = included is not None and included not in reachable | PUBLIC_HEADERS
            if elsewhere or (line.startswith(TORCH) and not with_torch):
                wrong.append(f"{path.relative_to(CSRC)}: {line}")
    assert not wrong


def test_schemas_stand_in_one_file() -> None:
    holders = [p.name for p in CSRC.rglob("*.cpp") if "STABLE_TORCH_LIBRARY(" in p.read_text()]
    assert holders == ["library.cpp"]


@pytest.mark.slow
@pytest.mark.parametrize("module", ["pocketnet_fast", "pocketnet_fast.models.registry"])
def test_import_is_lean(module: str) -> None:
    code = (
        f"import torch, sys; before = set(sys.modules); import {module}\n"
        f"new = set(sys.modules) - before\n"
        f"print([name for name in {HEAVY!r} if name in new], torch.cuda.is_initialized())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] False"


def test_lazy_names_resolve() -> None:
    for name in pocketnet_fast.__all__:
        assert getattr(pocketnet_fast, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'compil'"):
        _ = pocketnet_fast.compil  # type: ignore[attr-defined]


@pytest.mark.parametrize("room", ["pocketnet_fast", "faces", "gallery", "export"])
def test_rooms_give_their_public_names(room: str) -> None:
    """Each name of ``__all__`` is there, and only a name that is one is found."""
    name = room if room == "pocketnet_fast" else f"pocketnet_fast.{room}"
    module = importlib.import_module(name)
    for public in module.__all__:
        assert getattr(module, public) is not None
        assert public in dir(module)
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'nothing'"):
        getattr(module, "nothing")  # noqa: B009
