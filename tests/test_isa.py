"""Which kernels run: the best available, or the forced ones, or an error; never a fallback."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pocketnet_fast.ops.native import available_isas, force_isa

PRINT = "import pocketnet_fast; print(pocketnet_fast.compiled_isa())"


def run(isa: str | None, code: str = PRINT) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PNF_FORCE_ISA"}
    if isa is not None:
        environment["PNF_FORCE_ISA"] = isa
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_default_is_the_best_available() -> None:
    assert run(None).stdout.strip() == available_isas()[0]
    assert run("").stdout.strip() == available_isas()[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", available_isas())
def test_forced(name: str) -> None:
    assert run(name).stdout.strip() == name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["avx1024", "AVX2", "neon", "avx512"])
def test_an_unavailable_name_is_an_error(name: str) -> None:
    if name in available_isas():
        pytest.skip(f"{name} is available here")
    done = run(name)
    assert done.returncode != 0
    assert f"instruction set '{name}' is not available" in done.stderr
    assert all(isa in done.stderr for isa in available_isas())


def test_a_call_fails_too() -> None:
    code = (
        "import torch, pocketnet_fast as p\n"
        "model = p.compile(p.create_model('pocketnet_s128'))\n"
        "model(torch.zeros(1, 3, 112, 112))\n"
    )
    done = run("avx1024", code)
    assert done.returncode == 1
    assert "instruction set 'avx1024' is not available" in done.stderr


def test_force_in_the_process() -> None:
    with pytest.raises(RuntimeError, match="'mmx' is not available"):
        force_isa("mmx")
