"""Many threads of one C++ process on one loaded module, under ThreadSanitizer."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from helpers import random_genotype, randomize_
from native import ROOT, cmake_build, thread_sanitized_build, thread_sanitizer_launcher

from pocketnet_fast.export.torchscript import export_torchscript
from pocketnet_fast.models.pocketnet import PocketNet


@pytest.fixture(scope="module")
def launcher() -> list[str]:
    return thread_sanitizer_launcher()


@pytest.fixture(scope="module")
def operators() -> Path:
    return thread_sanitized_build("pnf_ops") / "libpnf_ops.so"


@pytest.fixture(scope="module")
def host() -> Path:
    options = (
        f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}",
        "-DCMAKE_CXX_FLAGS=-fsanitize=thread -g1",
        "-DCMAKE_CXX_FLAGS_RELEASE=-O1",
    )
    return cmake_build("cpp_host-thread", ROOT / "examples" / "cpp_host", *options) / "cpp_host"


# LibTorch is not instrumented, but what this program asks of it gives no reports that would need suppressing.
# Three images on two threads are shared out both ways: two as wholes, the third by rows.
@pytest.mark.slow(seconds=110)
def test_no_data_races(tmp_path: Path, launcher: list[str], operators: Path, host: Path) -> None:
    model = randomize_(PocketNet(random_genotype(11), 8, 4, 32), 11)
    exported = export_torchscript(model, tmp_path / "m.pt", input="uint8").path
    generator = torch.Generator().manual_seed(0)
    crops = [tmp_path / f"{i}.ppm" for i in range(3)]
    for crop in crops:
        pixels = torch.randint(0, 256, (112, 112, 3), dtype=torch.uint8, generator=generator)
        crop.write_bytes(b"P6 112 112 255\n" + pixels.numpy().tobytes())
    arguments = ["--repeat", "1", "--callers", "6", "--threads", "2", "--ops", str(operators)]
    done = subprocess.run(
        [*launcher, str(host), str(exported), *map(str, crops), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ.get("PATH", ""), "TSAN_OPTIONS": "second_deadlock_stack=1"},
    )
    assert "ThreadSanitizer" not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["callers_agree"] is True
