"""A network on tile registers (AMX), which few CPUs have: the native kernels, their instructions emulated.

``csrc/tests/emulated_amx.cpp`` says how. The native tests compare the node kernel itself with its equation in
float64.
"""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import randomize_
from native import network_command

from pocketnet_fast import compile, create_model
from pocketnet_fast.lowering.precision import synthetic_calibration
from pocketnet_fast.models.registry import PRETRAINED

SKIPPED = 77

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or platform.system() != "Linux", reason="emulates x86-64 by Linux signals"
)


@pytest.mark.parametrize("name", ["pocketnet_s128", "pocketnet_m256"])
def test_a_network_on_tiles(name: str, tmp_path: Path) -> None:
    network = create_model(name, pretrained=True) if name in PRETRAINED else randomize_(create_model(name), 0)
    pixels = synthetic_calibration()[:3].contiguous()
    command = network_command(
        "run_network_emulated_amx", network, "bf16", "amx_bf16", pixels.numpy(), tmp_path
    )
    done = subprocess.run(command, capture_output=True, check=False, timeout=300)
    if done.returncode == SKIPPED:
        pytest.skip(done.stderr.decode().strip())
    assert done.returncode == 0, done.stderr.decode()
    found = torch.from_numpy(np.frombuffer(done.stdout, np.float32).reshape(3, -1).copy())
    cosine = torch.cosine_similarity(found, compile(network)(pixels))
    assert float(cosine.min()) > 0.9995
