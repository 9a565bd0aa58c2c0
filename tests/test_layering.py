"""Who may import whom, and what importing the package costs."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import pocketnet_fast

PACKAGE = Path(__file__).resolve().parent.parent / "pocketnet_fast"
CSRC = PACKAGE.parent / "csrc"

# Each room may import those of its own rank and the ranks after it.
PYTHON_ROOMS = [
    {"cli"},
    {"training", "search", "evaluation", "export", "faces", "gallery"},
    {"losses", "lowering", "data"},
    {"models"},
    {"ops"},
]
FREE = {"errors", "files", "machine", "cmake", "strict_json", "pictures", "lazy", "waiting", "__init__", "_C"}
NATIVE_ROOMS = [{"bindings"}, {"ops", "library", "wasm32"}, {"faces"}, {"plan"}, {"kernels"}]
PUBLIC_HEADERS = {"pocketnet.h"}
# What programs without Python are made of. They meet the rooms above in exported files alone.
HOST_ROOMS = [{"hosting"}, {"images"}]
TORCH = ("#include <torch/", "#include <ATen/", "#include <c10/", "#include <caffe2/")
HEAVY = ["cv2", "matplotlib", "skimage", "onnxruntime", "openvino", "triton", "typer", "rich", "safetensors"]


def level(rooms: list[set[str]], room: str) -> int:
    return next(i for i, names in enumerate(rooms) if room in names)


def imported_rooms(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module]
            if node.module == "pocketnet_fast":
                names = [f"pocketnet_fast.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "pocketnet_fast" and len(parts) > 1 and (PACKAGE / parts[1]).is_dir():
                found.add(parts[1])
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
