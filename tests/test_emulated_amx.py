"""A network on tile registers (AMX), which few CPUs have: the native kernels, their instructions emulated.

Twice: ``csrc/tests/emulated_amx.cpp`` carries out the tile instructions on a CPU that has the others, and
``csrc/tests/emulated_avx512`` compiles the same algorithms for any CPU. The native tests compare the node
kernel itself with its equation in float64.
"""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import pytest
import torch
from helpers import random_genotype, randomize_
from native import embeddings_of, network_command, sanitized_build

from pocketnet_fast import compile, create_model
from pocketnet_fast.lowering.precision import synthetic_calibration
from pocketnet_fast.models.pocketnet import PocketNet
from pocketnet_fast.models.registry import PRETRAINED

SKIPPED = 77
EMULATIONS = ["signals", "vocabulary"]

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or platform.system() != "Linux", reason="emulates x86-64 by Linux signals"
)


def check(
    program: str, network: PocketNet, isa: str, images: int, folder: Path, built: Path | None = None
) -> None:
    pixels = synthetic_calibration()[:images].contiguous()
    command = network_command(program, network, "bf16", isa, pixels.numpy(), folder, built)
    done = subprocess.run(command, capture_output=True, check=False, timeout=300)
    if done.returncode == SKIPPED:
        pytest.skip(done.stderr.decode().strip())
    cosine = torch.cosine_similarity(embeddings_of(done, images), compile(network)(pixels))
    assert float(cosine.min()) > 0.9995


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pocketnet_s128", "pocketnet_m256"])
@pytest.mark.parametrize("emulation", EMULATIONS)
def test_a_network_on_tiles(emulation: str, name: str, tmp_path: Path) -> None:
    network = create_model(name, pretrained=True) if name in PRETRAINED else randomize_(create_model(name), 0)
    if emulation == "vocabulary":
        check("run_network", network, "amx_bf16", 1, tmp_path, sanitized_build())
    else:
        check("run_network_emulated_amx", network, "amx_bf16", 3, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["amx_bf16", "avx512_bf16", "avx512"])
@pytest.mark.parametrize("states", [6, 8])
def test_a_wide_concatenation(states: int, isa: str, tmp_path: Path) -> None:
    """A pre-processing sums a product for each state of a concatenation, here of three blocks of channels."""
    network = randomize_(PocketNet(random_genotype(states, nodes=states), 40, 4, 64), states)
    check("run_network", network, isa, 1, tmp_path, sanitized_build())
