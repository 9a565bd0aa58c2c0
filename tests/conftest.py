"""Fixtures that several tests share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from torch import Tensor

_ROOT = Path(__file__).resolve().parent.parent

# The installed package is what is tested. From the project's root, `python -m pytest` and the `python -c` of
# some tests would find the sources instead, which lack the compiled parts.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != _ROOT]


def pytest_sessionstart() -> None:
    os.chdir(_ROOT / "tests")


@dataclass(frozen=True)
class Golden:
    """Recorded tensors and the description stored with them."""

    metadata: dict[str, str]
    tensors: dict[str, Tensor]

    @property
    def weights(self) -> dict[str, Tensor]:
        prefix = "weights."
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of recorded data that is no part of the project."""
    path = Path(os.environ.get("POCKETNET_SHARED", _ROOT.parent / "shared"))
    if not path.is_dir():
        pytest.skip(f"no recorded data at {path}; set POCKETNET_SHARED to their folder")
    return path


@pytest.fixture(scope="session")
def golden(shared_dir: Path) -> Callable[[str], Golden]:
    """Load a recorded file by its stem; skips the test if it is not there."""
    from safetensors import safe_open
    from safetensors.torch import load_file

    def load(name: str) -> Golden:
        path = shared_dir / "golden" / f"{name}.safetensors"
        if not path.is_file():
            pytest.skip(f"no recorded file {path}")
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        return Golden(metadata, load_file(path))

    return load


def _isas(precision: str) -> list[str]:
    from pocketnet_fast.ops.native import available_isas

    return available_isas(precision)


@pytest.fixture(params=_isas("fp32"))
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test once per instruction set that this machine has."""
    from pocketnet_fast.ops.native import compiled_isa, force_isa

    force_isa(request.param)
    assert compiled_isa() == request.param
    yield request.param
    force_isa("")


@pytest.fixture(params=_isas("bf16"))
def bf16_isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test once per instruction set that half precision has on this machine."""
    from pocketnet_fast.ops.native import compiled_isa, force_isa

    force_isa(request.param)
    assert compiled_isa("bf16") == request.param
    yield request.param
    force_isa("")
